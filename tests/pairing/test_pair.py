"""`python -m sbp_jax.pair`, as a person starts it on the toy world."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
FEW = ("--config.toyworld.documents=120", "--config.data.workers=1")


def pair(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sbp_jax.pair", "--config=configs/laptop.py", *flags],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
        capture_output=True,
        text=True,
    )


def error(*flags: str) -> str:
    done = pair(*flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("error: ") == 1
    return done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_corpus_becomes_pairs_and_thresholds_and_controls_share_the_search(tmp_path):
    shared = f"--neighbors={tmp_path / 'neighbors'}"
    done = pair(*FEW, f"--output={tmp_path / 'pairs'}", shared)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "pairs" / "manifest.json").read_text())
    assert manifest["kind"] == "pairs" and manifest["counts"]["candidates"] == 600
    rows = pq.read_table(tmp_path / "pairs" / "part-00000.parquet")
    assert rows.column_names == ["d1", "d2", "score", "id1", "id2"]
    assert rows.num_rows == manifest["counts"]["pairs"] == manifest["shards"][0]["rows"]
    assert f"pairs {rows.num_rows:,}" in done.stderr.replace("\n", "")
    searched = (tmp_path / "neighbors" / "vectors.npy").stat().st_mtime_ns

    higher = ("--config.pairing.min_score=0.5", f"--output={tmp_path / 'higher'}", shared)
    assert pair(*FEW, *higher).returncode == 0
    best = pq.read_table(tmp_path / "higher" / "part-00000.parquet")
    assert best == rows.slice(0, best.num_rows) and 0 < best.num_rows < rows.num_rows

    control = ("--config.pairing.random_pairs=True", f"--output={tmp_path / 'control'}", shared)
    assert pair(*FEW, *control).returncode == 0
    drawn = pq.read_table(tmp_path / "control" / "part-00000.parquet")
    assert drawn["id1"] == rows["id1"] and drawn["id2"] != rows["id2"]
    assert (tmp_path / "neighbors" / "vectors.npy").stat().st_mtime_ns == searched

    again = error(
        *FEW, "--config.pairing.max_overlap=0.1", f"--output={tmp_path / 'pairs'}", shared
    )
    assert "config.pairing.max_overlap 0.7 -> 0.1" in again and "choose another output" in again


@pytest.mark.slow
def test_mistakes_are_one_line(tmp_path):
    output = f"--output={tmp_path / 'out'}"
    assert "--output is missing" in error()
    assert "--checkpoint is missing" in error(output, "--config.pairing.embedder=self")
    assert "--checkpoint is of no use to config.pairing.embedder=lexical" in error(
        output, "--checkpoint=runs/none"
    )
    assert "needs a model's folder" in error(output, "--config.pairing.embedder=qwen3")
    assert "config.pairing.embedder is 'bert'; it is one of: 'lexical'" in error(
        output, "--config.pairing.embedder=bert"
    )
    assert "config.pairing.min_score=0.9 is above config.pairing.max_score=0.5" in error(
        output, "--config.pairing.min_score=0.9", "--config.pairing.max_score=0.5"
    )
    assert "config.pairing.max_overlap is 2.0; it has to be from 0 to 1" in error(
        output, "--config.pairing.max_overlap=2"
    )
    assert "engine=vllm computes config.pairing.embedder=qwen3, not lexical" in error(
        output, "--config.pairing.engine=vllm"
    )
    assert "did you mean 'max_overlap'" in error(output, "--config.pairing.max_overlaps=2")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("one")
    assert "lies in the input folder" in error(f"--input={tmp_path}", output)
    assert "fewer than two documents" in error(f"--input={tmp_path / 'in'}", output)
    assert "runs/none" in error(output, "--config.pairing.embedder=self", "--checkpoint=runs/none")
    assert "nowhere" in error(
        output, "--config.pairing.embedder=qwen3", "--config.pairing.model=nowhere"
    )
