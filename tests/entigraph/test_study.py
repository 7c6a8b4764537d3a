"""The study end to end on the toy world, and on a user's documents; through a kill -9, too."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from entigraph.evaluation.questions import line_of, read_questions
from entigraph.generation.methods import METHODS
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import open_corpus, read_documents, verify_corpus

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(1200)
CONFIG = """
from sbp_jax.config import new_config


def get_config():
    config = new_config()
    config.model.update(
        num_layers=1, d_model=32, num_heads=2, num_kv_heads=1, head_dim=16, d_ff=64,
        vocab_size=400, scan_layers=False,
    )
    config.data.update(sequence_length=128, workers=1)
    config.toyworld.update(concepts=40, documents=40, held_out_documents=8)
    config.train.update(batch_size=4, tokens=10 * 512, samples=0, tensorboard=False)
    config.optimizer.peak_lr = 2e-3
    config.eval.update(every_steps=10, max_sequences=16)
    config.checkpoint.every_steps = 5
    config.study.update(
        pretraining_tokens=30 * 512, methods="raw,entigraph", shares="0.5,1", niche=0.25
    )
    return config
"""


def start(folder, *flags, config=CONFIG):
    path = folder / "config.py"
    path.write_text(config)
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "entigraph.study", f"--config={path}",
             f"--workdir={folder / 'w'}", *flags],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
            stdout=log,
            stderr=log,
        )  # fmt: skip


def run(folder, *flags, config=CONFIG):
    code = start(folder, *flags, config=config).wait()
    said = (folder / "log").read_text()
    assert code == 0, said[-3000:]
    return json.loads((folder / "w" / "report" / "results.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, run(folder)


def test_all_arms_are_measured_at_equal_tokens(whole):
    _, results = whole
    rows = {(arm["method"], arm["share"]): arm for arm in results["arms"]}
    assert set(rows) == {(m, s) for m in ("raw", "entigraph") for s in (0.5, 1.0)}
    for share in (0.5, 1.0):
        assert rows["raw", share]["tokens"] == rows["entigraph", share]["tokens"] == 5120 * share
    for arm in (results["before"], *rows.values()):
        assert 0 <= arm["closed_book"]["low"] <= arm["closed_book"]["value"] <= 1
        assert {"open_book", "general_facts", "general_loss"} <= set(arm)
    # A tenth of what was read is general text, by the examples themselves.
    for arm in rows.values():
        assert arm["consumed"]["replay"]["share"] == pytest.approx(0.1, abs=0.03)
    for share in (0.5, 1.0):  # of the library itself no part is left out
        assert rows["raw", share]["texts"]["documents"] == results["library"]["documents"]
    assert rows["entigraph", 0.5]["texts"]["tokens"] < rows["entigraph", 1.0]["texts"]["tokens"]
    assert rows["entigraph", 1.0]["consumed"]["synthetic"]["passes"] <= 1.01
    assert set(results["against_raw"]) == {"entigraph"}
    assert set(results["against_before"]) == {"raw", "entigraph"}
    assert set(results["scaling"]) == {"raw", "entigraph"}


def test_the_report_says_in_every_table_who_wrote_the_texts(whole):
    folder, results = whole
    page = (folder / "w" / "report" / "index.html").read_text()
    assert "not the answers" in results["note"]
    sections = [s for s in page.split("<section>") if "<table>" in s and "EntiGraph" in s]
    assert len(sections) >= 4
    for section in sections:
        assert "rewriter" in section
    for name in ("closed_book", "open_book", "scaling", "consumed"):
        assert (folder / "w" / "report" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_its_corpora_and_questions_are_in_the_forms_that_other_commands_read(whole):
    folder, results = whole
    for name in ("data/general", "data/library", "texts/entigraph", "arms/entigraph-1/texts"):
        verify_corpus(folder / "w" / name)
    articles = read_questions(str(folder / "w" / "data" / "questions.jsonl"))
    assert sum(len(a.questions) for a in articles) == results["library"]["questions"]
    corpus = open_corpus(str(folder / "w" / "texts" / "entigraph"), Experiment())
    meta = json.loads(next(read_documents(corpus, "stop")).meta)
    assert meta["model"] == "toy world rewriter" and len(meta["entities"]) == 2


def test_a_killed_study_goes_on_to_the_same_results(whole):
    """What it had finished is there; it dies within the first arm of the second method."""
    folder, expected = whole
    parts = ("report", "texts/entigraph", "texts/work/entigraph", "arms/entigraph-0.5",
             "arms/entigraph-1", "scores/entigraph-0.5", "scores/entigraph-1")  # fmt: skip
    for part in parts:
        shutil.rmtree(folder / "w" / part)
    process = start(folder)
    inside = folder / "w" / "arms" / "entigraph-0.5" / "run" / "config.json"
    while not inside.exists():
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "w" / "report").exists()
    assert _told(run(folder)) == _told(expected)


def test_a_finished_study_is_read_again(whole):
    folder, expected = whole
    start_time = (folder / "w" / "model" / "summary.json").stat().st_mtime_ns
    assert _told(run(folder)) == _told(expected)
    assert (folder / "w" / "model" / "summary.json").stat().st_mtime_ns == start_time


def test_the_same_command_teaches_a_users_library_to_a_users_model(whole, tmp_path):
    """With a corpus, questions and a model as a user has them; no language model writes."""
    folder, _ = whole
    data = folder / "w" / "data"
    articles = read_questions(str(data / "questions.jsonl"))[:6]
    (tmp_path / "q.jsonl").write_text("".join(map(line_of, articles)))
    books = tmp_path / "books"
    books.mkdir()
    for number, article in enumerate(articles):
        (books / f"{number}.txt").write_text(f"{article.text.title}\n{article.text.text}")
    flags = (
        f"--input={books}", f"--questions={tmp_path / 'q.jsonl'}",
        f"--init_from={folder / 'w' / 'model'}", f"--config.data.input={data / 'general'}",
        f"--config.eval.input={data / 'held_out'}", "--config.study.methods=raw,extractive",
        "--config.study.shares=1", "--config.pairing.dimensions=256",
    )  # fmt: skip
    results = run(tmp_path, *flags)
    assert results["note"] == "" and results["library"]["documents"] == 6
    assert [arm["method"] for arm in results["arms"]] == ["raw", "extractive"]
    assert set(results["against_raw"]) == {"extractive"}


def test_a_mistake_is_one_line(tmp_path):
    assert start(tmp_path, "--config.study.methods=raw,entigraf").wait() == 2
    last = (tmp_path / "log").read_text().strip().splitlines()[-1]
    assert last == "error: config.study.methods: 'entigraf' is none; there are " + ", ".join(
        ["raw", *METHODS]
    )
    assert not (tmp_path / "w" / "data").exists()


def _told(results):
    """Without dates and clocks."""
    if isinstance(results, dict):
        return {k: _told(v) for k, v in results.items() if k not in ("date", "wall_s")}
    return [_told(item) for item in results] if isinstance(results, list) else results
