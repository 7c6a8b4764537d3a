"""Bubblewrap keeps every promise of a sandbox, and some that concern its own parts."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sandbox_cases import *  # noqa: F403
from sandbox_programs import SMALL, daemon, sleeping, wait_until

from research_env.sandbox import bubblewrap, factory, paths
from research_env.sandbox.protocol import Ended, Resource
from research_env.sandbox.watch import descendants
from sbp_jax.errors import UserError

KIND = "bubblewrap"

HARNESS = """
import sys
from pathlib import Path
from research_env.sandbox import factory
from research_env.sandbox.protocol import Limits, Resource

with factory("bubblewrap")(Resource(), {}) as sandbox:
    sandbox.exec(["bash", "-c", sys.argv[1]], Limits(wall_seconds=600))
"""


def test_nothing_outlives_a_harness_that_is_killed(marker):
    harness = subprocess.Popen([sys.executable, "-c", HARNESS, f"{daemon(marker)} sleep 999"])
    wait_until(lambda: sleeping(marker))
    harness.kill()
    harness.wait()
    wait_until(lambda: not sleeping(marker))


def test_the_death_of_what_holds_it_is_no_fault_of_the_program(open_sandbox, marker):
    with open_sandbox() as sandbox:
        for pid in descendants(sandbox._process.pid):
            with contextlib.suppress(ProcessLookupError):  # with the one before
                os.kill(pid, signal.SIGKILL)
        executed = sandbox.exec(["true"], SMALL)
    assert executed.ended is Ended.INFRASTRUCTURE and executed.reason


def test_without_bubblewrap_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install bubblewrap"):
        factory("bubblewrap")


def test_where_namespaces_are_forbidden_it_says_so(monkeypatch, tmp_path):
    forbidden = tmp_path / "bwrap"
    forbidden.write_text(
        "#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2; exit 1"
    )
    forbidden.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UserError, match="uid map: Permission denied.*sysctl"):
        factory("bubblewrap")


def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="/dev/nvidia9"):
        bubblewrap.bubblewrap(Resource(gpus=1, gpu_ids=(9,)), {})


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="'chroot'.*bubblewrap, docker, slurm, ray, subprocess"):
        factory("chroot")


def test_our_own_package_is_not_seen_where_python_s_packages_are(monkeypatch):
    """As it would be if installed there, with evaluators and labels; another package stands in."""
    import hypothesis

    monkeypatch.setattr(paths, "PACKAGE", Path(hypothesis.__file__).parent)
    (place,) = paths.covered()
    with factory("bubblewrap")(Resource(), {}) as sandbox:
        look = f"ls -A {place}; touch {place}/x; python -c 'import absl, hypothesis.errors'"
        done = sandbox.exec(["bash", "-c", look], SMALL)
    assert done.stdout == b""
    assert b"Read-only file system" in done.stderr
    assert b"No module named 'hypothesis.errors'" in done.stderr
