"""Slurm keeps every promise of a sandbox, on a real cluster of one node."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sandbox_cases import *  # noqa: F403
from sandbox_programs import SMALL, daemon, said, sleeping, wait_until
from slurm import slurm_cluster

from research_env.sandbox import factory, slurm
from research_env.sandbox.protocol import Ended, Limits, Resource
from research_env.sandbox.staged import Program
from sbp_jax.errors import UserError

KIND = "slurm"


@pytest.fixture(scope="module")
def kind(tmp_path_factory):
    with slurm_cluster(cpus=4, memory_mb=8000), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SANDBOX_FOLDER", str(tmp_path_factory.mktemp("shared")))
        yield factory("slurm")


def states():
    done = subprocess.run(["squeue", "--noheader", "--format=%T"], capture_output=True, text=True)
    return done.stdout.split()


def test_a_job_asks_for_what_its_program_may_use():
    program = Program(["true"], Limits(wall_seconds=90, memory_mb=1000, disk_mb=500), {})
    command = slurm.job(Path("/shared/it"), Resource(cores=3, gpus=2), program)
    asked = {"--cpus-per-task=3", "--gres=gpu:2", "--mem=1756M", "--time=7", "--export=NONE"}
    assert asked <= set(command) and command[-1] == "/shared/it"


def test_a_job_that_waits_for_room_waits_and_runs(kind):
    """Its time does not begin before."""
    with kind(Resource(cores=4), {}) as one, kind(Resource(cores=4), {}) as other:
        first = threading.Thread(target=one.exec, args=(["sleep", "1.5"], SMALL))
        first.start()
        wait_until(lambda: states() == ["RUNNING"])
        executed = other.exec(["echo", "at last"], Limits(wall_seconds=1))
        first.join()
    assert said(executed) == "at last\n" and executed.seconds < 1


def test_a_job_that_waits_for_room_is_killed_at_once(kind):
    with kind(Resource(cores=4), {}) as one, kind(Resource(cores=4), {}) as other:
        first = threading.Thread(target=one.exec, args=(["sleep", "999"], Limits(wall_seconds=99)))
        first.start()
        wait_until(lambda: states() == ["RUNNING"])
        executed = []
        second = threading.Thread(target=lambda: executed.append(other.exec(["true"], SMALL)))
        second.start()
        wait_until(lambda: sorted(states()) == ["PENDING", "RUNNING"])
        other.kill()
        second.join(30)
        one.kill()
        first.join(30)
    assert executed[0].ended is Ended.KILLED and not (first.is_alive() or second.is_alive())


def test_what_the_cluster_can_never_give_is_no_fault_of_the_program(kind):
    with kind(Resource(cores=1), {}) as sandbox:
        executed = sandbox.exec(["true"], Limits(memory_mb=10**6))
    assert executed.ended is Ended.INFRASTRUCTURE and "srun" in executed.reason


def test_a_job_that_slurm_ends_is_no_fault_of_the_program(kind):
    with kind(Resource(cores=1), {}) as sandbox:
        executed = []
        thread = threading.Thread(
            target=lambda: executed.append(sandbox.exec(["sleep", "999"], Limits()))
        )
        thread.start()
        wait_until(lambda: states() == ["RUNNING"])
        subprocess.run(["scancel", "--user", str(os.getuid())], check=True)
        thread.join(60)
    assert executed[0].ended is Ended.INFRASTRUCTURE and executed[0].reason


HARNESS = """
import sys
from research_env.sandbox import factory
from research_env.sandbox.protocol import Limits, Resource

with factory("slurm")(Resource(), {}) as sandbox:
    sandbox.exec(["bash", "-c", sys.argv[1]], Limits(wall_seconds=600))
"""


def test_a_job_ends_with_a_harness_that_is_killed(kind, marker):
    harness = subprocess.Popen([sys.executable, "-c", HARNESS, f"{daemon(marker)} sleep 999"])
    wait_until(lambda: sleeping(marker))
    harness.kill()
    harness.wait()
    wait_until(lambda: not sleeping(marker) and not states())


def test_without_slurm_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install slurm-client"):
        factory("slurm")


def test_without_a_controller_it_says_so(monkeypatch, tmp_path):
    for name in ("srun", "sinfo"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'sinfo: no controller' >&2; exit 1")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UserError, match="no controller"):
        factory("slurm")
