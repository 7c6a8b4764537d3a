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


def test_bulk_has_its_rate_and_its_memory():
    rate, memory = bench("bulk", "--requests=20000")
    assert rate.startswith("null engine: 20,000 requests, ") and "for each second of a core" in rate
    assert memory.startswith("memory: peak ")


@pytest.mark.slow
@pytest.mark.parametrize("side", ["jax", "transformers"])
def test_sample_has_a_rate_for_each_kind_of_work(side):
    head, *rows = bench("sample", "--sizes=tiny", f"--side={side}", "--requests=2")
    assert head.split() == [side, "tokens/s"]
    kinds = [row.split()[:3] for row in rows]
    assert kinds == [["tiny", t, d] for t in ("even", "mixed") for d in ("greedy", "drawn")]
    assert all(float(row.split()[3].replace(",", "")) > 0 for row in rows)


@pytest.mark.slow
def test_evaluate_has_both_rates_and_their_agreement_for_each_kind_of_request():
    pytest.importorskip("accelerate")
    head, *rows = bench("evaluate", "--quick")
    assert head.split()[:3] == ["requests/s", "jax", "hf"]
    kinds = ["choice", "support", "examples", "word", "rolling", "texts"]
    assert [row.split()[:2] for row in rows] == [["tiny", kind] for kind in kinds]
    assert all(float(row.split()[4]) > 0 for row in rows)
    assert all(float(row.split()[-1]) < 1e-3 for row in rows[:-1])
    assert rows[-1].endswith("2 of 2")


@pytest.mark.slow
def test_research_has_overhead_slots_and_strategies():
    lines = bench("research", "--ideas=12", "--workers=12", "--seeds=2")
    assert lines[0].startswith("overhead: ") and "ms of CPU" in lines[0]
    assert lines[1].startswith("slots: ")
    assert sum(line.startswith("  12 ideas ") for line in lines) == 6


def test_research_dashboard_has_the_time_from_an_ideas_end():
    page, end, each, report = bench("research_dashboard", "--ideas=12", "--repeats=1")
    assert page.startswith("page of 12 ideas: ") and report.startswith("report: ")
    assert end.startswith("end to dashboard: median ") and each.startswith("processor time ")


def test_promotions_tells_for_each_number_of_seeds_how_often():
    lines = bench("promotions", "--searches=3")
    assert [line.split(",")[0] for line in lines] == ["3 seeds", "5 seeds", "8 seeds"]
    assert all("5 sd " in line for line in lines)
