"""The benchmarks that need other hardware run here too, on a model too small to say anything."""

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
