"""The train step, compiled by the real TPU compiler for TPUs that are not here."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.aot


def aot(*flags):
    command = [sys.executable, "-m", "sbp_jax.aot", *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_step_that_fits_is_compiled_with_splash_attention_and_measured():
    done = aot("--config=configs/laptop.py", "--topology=v5e:2x2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["fits"] and report["devices"] == 4 and report["mesh"]["fsdp"] == 4
    assert 0 < report["hbm_gib_per_device"] < report["hbm_limit_gib"] == 15.75
    assert report["collectives"]["all-gather"]["count"] > 0 and report["estimated_step_s"] > 0
    # Nothing is rematerialised; the attention kernel's backward pass does more than the model's
    # mathematics needs, on whole blocks.
    assert 1 < report["flops_per_step"] / report["model_flops_per_step"] < 1.2


def test_a_step_that_does_not_fit_says_what_it_needs():
    done = aot("--config=configs/1t_6b.py", "--config.mesh.fsdp=16", "--topology=v5e:4x4", "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert not report["fits"] and report["hbm_gib_per_device"] > report["hbm_limit_gib"]


def test_a_wrong_topology_is_one_line():
    done = aot("--config=configs/laptop.py", "--topology=v9:4x4")
    assert done.returncode == 2
    assert "v5p:8x8x8" in done.stderr and done.stderr.count("\n") == 1
