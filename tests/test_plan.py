"""What an experiment takes, computed before it runs: against the paper's hours and itself."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAPER = {"200b_3b": (10e9, 11e3), "1t_3b": (50e9, 59e3), "1t_6b": (50e9, 265e3)}  # v5p hours
POD = "--topology=v5p:8x8x8"


def run(*flags):
    command = [sys.executable, "-m", "sbp_jax.plan", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def plan(config, *flags):
    done = run(f"--config=configs/{config}.py", "--json", *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stages(planned):
    return {stage["name"]: stage for stage in planned["stages"]}


@pytest.mark.parametrize("scale", PAPER)
def test_the_papers_hours_are_possible_ones(scale):
    """One training at the implied MFU takes just these hours; and three are no more than a chip
    can do.
    """
    unique, hours = PAPER[scale]
    flags = (POD, f"--unique_tokens={unique}", f"--hours={hours}")
    reported = plan(scale, *flags)["training"]["reported"]
    assert 0.08 < reported["mfu_of_one"] < 0.21 and reported["mfu_of_all"] < 0.62
    again = stages(plan(scale, POD, f"--mfu={reported['mfu_of_one']}"))["training: sbp"]
    assert again["chip_hours"] == pytest.approx(hours, rel=1e-6)


def test_half_the_efficiency_is_twice_the_hours_and_a_price_is_the_readers():
    whole = stages(plan("1t_6b", POD, "--price=2"))
    half = stages(plan("1t_6b", POD, "--mfu=0.225", "--memory=0.25"))
    assert list(whole) == [
        "training: baseline", "training: oracle", "embedding", "neighbours", "tuning", "synthesis",
        "training: sbp",
    ]  # fmt: skip
    for name, stage in whole.items():
        assert half[name]["chip_hours"] == pytest.approx(2 * stage["chip_hours"])
        assert stage["price"] == pytest.approx(2 * stage["chip_hours"]) and not half[name]["price"]


def test_a_checkpoint_is_what_the_trainer_writes_and_arms_are_those_of_the_config(tmp_path):
    planned = plan("laptop", "--topology=h100:1", "--config.arms.dropouts=0.1,0.3")
    # Parameters and two moments in float32, and the counters.
    params = (
        4 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384 + 2 * 128 + 2 * 32) + 1024 * 128 + 128
    )
    assert planned["checkpoints"]["bytes"] == pytest.approx(12 * params, abs=64)
    found = stages(planned)
    assert found["training: tuned_baseline"]["steps"] == 2 * found["training: baseline"]["steps"]
    assert "embedding" not in found  # lexical, on CPUs
    assert planned["corpus"]["tokens"] == 1500 * 80


def test_a_host_reads_whole_chunks_of_its_own_rows():
    one, many = (plan("1t_6b", f"--topology=v5p:{torus}")["input"] for torus in ("2x2x1", "8x8x8"))
    assert one["rows_per_step"] == 2048 and many["rows_per_step"] == 2048 / 128
    assert one["tokens_per_s"] == pytest.approx(many["tokens_per_s"])  # a host's chips are the same
    read = one["bytes_per_s"] / one["tokens_per_s"]
    assert read == pytest.approx(2 * (65536 / 4096 + 1), rel=0.01)
    assert math.isclose(one["bytes_per_s"], one["reads_per_s"] * 2 * 65536)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--topology=v5p:8x8"], "v5p:8x8x8"),
        (["--topology=tpu7x:2x2x2"], "its peak is not"),
        ([POD, "--config.arms.run=baseline,spb"], "'spb' is no arm"),
    ],
)
def test_a_mistake_is_one_line(flags, says):
    done = run("--config=configs/laptop.py", *flags)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1
