"""`python -m sbp_jax.tune` between its neighbours: pairs in, a checkpoint that synthesizes out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sbp_jax.training.checkpoint import fingerprint

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
from sbp_jax.config import new_config


def get_config():
    config = new_config()
    config.model.update(
        num_layers=2, d_model=32, num_heads=2, num_kv_heads=1, head_dim=16, d_ff=64,
        vocab_size=400, scan_layers=False,
    )
    config.data.update(sequence_length=256, held_out=0.1, workers=1)
    config.toyworld.update(concepts=40, documents=150, held_out_documents=30)
    config.train.update(
        batch_size=8, tokens=10 * 8 * 256, samples=0, tensorboard=False, log_every=1
    )
    config.eval.update(every_steps=10, max_sequences=16)
    config.tuning.update(tokens=30 * 8 * 256, batch_size=8, every_steps=10)
    config.synthesis.update(prompt="{text}\\n", max_tokens=20)
    return config
"""


def start(folder, module, *flags):
    log = (folder / "log").open("wb")
    return subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", f"sbp_jax.{module}",
         f"--config={folder / 'config.py'}", *flags],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
        stdout=log,
        stderr=log,
    )  # fmt: skip


def run(folder, module, *flags, code=0):
    """What it said."""
    found = start(folder, module, *flags).wait(300)
    said = (folder / "log").read_text()
    assert found == code and "Traceback" not in said, said[-3000:]
    return said


def error(folder, *flags):
    return run(folder, "tune", *flags, code=2).splitlines()[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    (folder / "config.py").write_text(CONFIG)
    run(folder, "train", f"--workdir={folder / 'base'}")
    run(folder, "pair", f"--output={folder / 'pairs'}")
    return folder


@pytest.fixture(scope="module")
def flags(folder):
    return f"--pairs={folder / 'pairs'}", f"--checkpoint={folder / 'base'}"


def outcome(workdir):
    """The record and the weights, without where they lie."""
    found = json.loads((workdir / "synthesizer.json").read_text())
    for place in ("checkpoint", "run"):
        found.pop(place)
    meta = workdir / "checkpoints" / str(found["step"]) / "meta" / "metadata"
    return found, json.loads(meta.read_text())["checksums"]


@pytest.fixture(scope="module")
def whole(folder, flags):
    said = run(folder, "tune", *flags, f"--workdir={folder / 'whole'}")
    assert "step 20: held-out pairs" in said and "with other d1's" in said
    assert " ETA 0:00:0" in said
    return folder / "whole"


@pytest.mark.slow
def test_killed_or_stopped_at_any_moment_it_chooses_the_same(whole, folder, flags, tmp_path):
    workdir = tmp_path / "tuned"
    command = (*flags, f"--workdir={workdir}")
    steps = workdir / "metrics.jsonl"
    lines = lambda: steps.read_bytes().count(b"\n") if steps.exists() else 0  # noqa: E731
    for reached, number, code in (
        ((workdir / "pairs").exists, signal.SIGKILL, -signal.SIGKILL),
        (lambda: lines() >= 3, signal.SIGINT, 130),
        (lambda: lines() >= 13, signal.SIGKILL, -signal.SIGKILL),
        (lambda: lines() >= 23, signal.SIGTERM, 130),
        ((workdir / "summary.json").exists, signal.SIGKILL, -signal.SIGKILL),
    ):
        process = start(folder, "tune", *command)
        deadline = time.monotonic() + 600
        while not reached():
            said = (folder / "log").read_text()
            assert process.poll() is None and time.monotonic() < deadline, said[-3000:]
            time.sleep(0.002)
        process.send_signal(number)
        assert process.wait() == code, (folder / "log").read_text()[-3000:]
        assert not (workdir / "synthesizer.json").exists()
    assert "with other d1's" in run(folder, "tune", *command)
    assert outcome(workdir) == outcome(whole)
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    assert "nothing to do" in run(folder, "tune", *command)
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.slow
def test_its_workdir_means_the_chosen_checkpoint_which_synthesizes(whole, folder, tmp_path):
    steps = sorted(int(step.name) for step in (whole / "checkpoints").iterdir())
    for name in ("config.json", "checkpoints", "tokenizer"):
        (tmp_path / name).symlink_to(whole / name)
    for step in steps:
        (tmp_path / "synthesizer.json").write_text(json.dumps({"step": step}))
        assert fingerprint(tmp_path) == fingerprint(whole / "checkpoints" / str(step))
    assert len(steps) > 1 and fingerprint(tmp_path) != fingerprint(
        whole / "checkpoints" / str(steps[0])
    )
    run(
        folder,
        "synthesize",
        f"--checkpoint={whole}",
        f"--output={folder / 'texts'}",
        "--config.toyworld.documents=10",
    )
    manifest = json.loads((folder / "texts" / "manifest.json").read_text())
    assert manifest["rows"] + manifest["errors"] == 10 and manifest["rows"] > 5


@pytest.mark.slow
def test_mistakes_are_one_line(folder, flags, tmp_path):
    pairs, checkpoint = flags
    here = (*flags, f"--workdir={tmp_path / 'new'}")
    assert "--pairs is missing" in error(folder, *here[1:])
    nowhere = f"--pairs={tmp_path / 'none'}"
    assert "no such folder; python -m sbp_jax.pair" in error(folder, nowhere, *here[1:])
    assert "no checkpoint there" in error(folder, pairs, f"--checkpoint={tmp_path}", here[2])
    assert "--init_from: tuning begins with" in error(folder, *here, "--init_from=x")
    changed = error(folder, *here, "--config.toyworld.documents=151")
    assert "pairs of toyworld:train, which config.data.input=toyworld is not, or no" in changed
    other = error(folder, *here, "--config.model.num_kv_heads=2")
    assert "give --config.model.num_kv_heads=1" in other
    other = error(folder, *here, f"--config.data.tokenizer={make_tokenizer(tmp_path)}")
    assert "is not the tokenizer of the checkpoint" in other
    assert "config.tuning.tokens=7 is no whole number" in error(
        folder, *here, "--config.tuning.tokens=7"
    )
    assert "raise it, or pair more" in error(folder, *here, "--config.data.held_out=0.0")
    assert not (tmp_path / "new" / "pairs").exists()


def make_tokenizer(folder):
    from sbp_jax.data.tokenizer import train_tokenizer

    texts = [f"{i} words of another corpus, {i * i} of them" for i in range(400)]
    train_tokenizer(texts, 300, folder / "tokenizer")
    return folder / "tokenizer"
