"""Every benchmark runs to its end, on something too small or too short to say anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def bench(name: str, *flags: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, f"bench/{name}.py", *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_without_a_gpu_train_gpu_says_so_and_is_done():
    (line,) = bench("train_gpu")
    assert line.startswith("no GPU: skipped")


@pytest.mark.slow
def test_train_gpu_compares_both_sides():
    flags = ("--repeats=1", "--steps=2", "--jax=4:minimal,2:full", "--torch=4:full", "--scan")
    ours, peer, ratio = bench("train_gpu", "--sizes=tiny", *flags)
    assert ours.startswith("tiny jax ") and "setting 4:minimal" in ours
    assert peer.startswith("tiny torch ") and "setting 4:full" in peer
    assert ratio.startswith("tiny jax / torch: ")


@pytest.mark.slow
def test_train_cpu_has_a_rate_for_our_side_and_torchs():
    for side in ("jax", "torch"):
        (rate,) = bench("train_cpu", "--sizes=1M", f"--side={side}", "--steps=1")
        assert float(rate) > 0


@pytest.mark.slow
def test_anatomy_splits_the_step_its_memory_and_a_save():
    lines = bench("anatomy", "--sizes=1M", "--repeats=1")
    for start in ("1M: 918,912 parameters", "adamw ", "muon ", "a checkpoint blocks "):
        assert any(line.startswith(start) for line in lines), lines


@pytest.mark.slow
def test_startup_finds_compiled_programs_in_the_second_start():
    *_, ratio = bench("startup", "--repeats=1")
    assert ratio.startswith("cold / warm: ") and float(ratio.split()[3]) > 0
