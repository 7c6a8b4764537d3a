"""The figures of texts that are known to be good or bad, and the command."""

import dataclasses
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbp_jax.config import Experiment, QualityConfig, ToyWorldConfig
from sbp_jax.data.corpus import Document, open_corpus, read_documents, write_corpus
from sbp_jax.data.ngrams import normal_form
from sbp_jax.data.tokenizer import train_tokenizer
from sbp_jax.data.toyworld import World
from sbp_jax.errors import UserError
from sbp_jax.pairing.embed import find_neighbors
from sbp_jax.pairing.pairs import write_pairs
from sbp_jax.synthesis import figures
from sbp_jax.synthesis.examples import read_pairs
from sbp_jax.synthesis.novelty import NOVEL, novelty
from sbp_jax.synthesis.quality import measure, repeated_shares
from sbp_jax.synthesis.quality_table import PAPER, markdown, rows
from sbp_jax.synthesis.toy_grades import corrupted

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = Experiment(
    toyworld=ToyWorldConfig(documents=400, held_out_documents=200, noise=0.0, ambiguous=0.0),
    quality=QualityConfig(samples=150),
)
WORLD = World(EXPERIMENT.toyworld)
TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=20).map(" ".join), max_size=6)


def train():
    return [WORLD.document("train", i) for i in range(400)]


def written(name, folder):
    """A synthetic corpus with a fault of its own; d1 of document i is i of the corpus."""
    draw = random.Random(0)
    seeds = {}
    for document, concept, _ in train():
        seeds.setdefault(concept, document.id)
    texts, number = [], 0
    while len(texts) < 120:
        document, concept, _ = WORLD.document("fresh", number)
        number += 1
        seed = seeds.get(concept)
        if name == "other_subject":
            seed = next(s for c, s in seeds.items() if c != concept)
        if seed is None:
            continue
        text = {
            "good": lambda: document.text,  # noqa: B023
            "other_subject": lambda: document.text,  # noqa: B023
            "wrong": lambda: corrupted(WORLD, document.text, draw) or "",  # noqa: B023
            "repeating": lambda: f"{document.text} " * 2,  # noqa: B023
            "copying": lambda: next(d.text for d, _, _ in train() if d.id == seed),  # noqa: B023
            "the_same": lambda: texts[0][1] if texts else document.text,  # noqa: B023
            "babble": lambda: document.text + " Grumbling turnips whistle.",  # noqa: B023
        }[name]()
        if text:
            texts.append((seed, text))
    documents = (
        Document(f"s{i}", text, "", json.dumps({"document": seed, "arguments": {"sample": 0}}))
        for i, (seed, text) in enumerate(texts)
    )
    write_corpus(documents, folder)
    return open_corpus(str(folder), EXPERIMENT)


def measured(name, folder, **options):
    real = open_corpus("toyworld:held_out", EXPERIMENT)
    corpus = open_corpus("toyworld", EXPERIMENT)
    synthetic = written(name, folder / name)
    return measure(EXPERIMENT, corpus, synthetic, folder / "q", real=real, **options)


def value(figures, name):
    for part in name.split("."):
        figures = figures[part]
    return figures["value"]


def test_documents_of_the_world_itself_are_good(tmp_path):
    record = measured("good", tmp_path)
    for figures_ in (record["synthetic"], record["real"]):
        assert value(figures_, "repetition") < 0.03
        assert value(figures_, "duplicate") < 0.03
        assert value(figures_, "corpus_copying") < 0.03
        exact = figures_["exact"]
        assert exact["non_factual"]["value"] == exact["malformed"]["value"] == 0.0
        assert exact["fact_accuracy"]["value"] == 1.0
    assert value(record["synthetic"], "exact.subject_kept") == 1.0
    assert value(record["synthetic"], "pair_copying") < 0.03
    assert abs(value(record["synthetic"], "words") - value(record["real"], "words")) < 5
    novel = [value(record["synthetic"], f"novelty_{n}") for n in NOVEL]
    assert novel == sorted(novel) and novel[0] < 0.05 and novel[-1] > 0.5


@pytest.mark.parametrize(
    ("name", "metric", "least"),
    [
        ("other_subject", "exact.pair_irrelevance", 1.0),
        ("wrong", "exact.non_factual", 1.0),
        ("repeating", "repetition", 1.0),
        ("copying", "pair_copying", 1.0),
        ("copying", "corpus_copying", 1.0),
        ("the_same", "duplicate", 0.99),
        ("babble", "exact.malformed", 1.0),
    ],
)
def test_each_fault_is_seen_by_its_figure(tmp_path, name, metric, least):
    record = measured(name, tmp_path)
    assert value(record["synthetic"], metric) >= least
    part = record["real"]
    for key in metric.split("."):
        part = part.get(key) or {}
    assert (part.get("value") or 0.0) < 0.03


def test_what_is_measured_is_not_measured_again_and_changed_inputs_are(tmp_path):
    first = measured("good", tmp_path)
    path = tmp_path / "q" / "quality.json"
    stat = path.stat().st_mtime_ns
    assert measured("good", tmp_path) == first == json.loads(path.read_text())
    assert path.stat().st_mtime_ns == stat
    second = measured("babble", tmp_path)
    assert second["key"] != first["key"] and json.loads(path.read_text()) == second
    assert [p.name for p in (tmp_path / "q" / "quality").glob("*/*")] == []
    path.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        measured("babble", tmp_path)


def test_real_pairs_have_the_figures_of_pairs(tmp_path):
    corpus = open_corpus("toyworld", EXPERIMENT)
    find_neighbors(corpus, EXPERIMENT, tmp_path / "neighbors")
    manifest = write_pairs(tmp_path / "neighbors", EXPERIMENT, tmp_path / "pairs")
    record = measured("good", tmp_path, pairs=tmp_path / "pairs")
    assert manifest["counts"]["pairs"] > 150 == record["real"]["pair_copying"]["documents"]
    assert value(record["real"], "pair_copying") == 0.0  # no such pair passes the filters
    assert 0.02 < value(record["real"], "pair_overlap") < 0.5
    kept = value(record["real"], "exact.subject_kept")
    concepts = {document.id: concept for document, concept, _ in train()}
    pairs = list(read_pairs(tmp_path / "pairs"))
    same = np.mean([concepts[pair.id1] == concepts[pair.id2] for pair in pairs])
    assert 0.3 < same < 1.0 and abs(kept - same) < 0.1


def test_lengths_are_those_of_the_tokenizer_too(tmp_path):
    texts = [document.text for document, _, _ in train()]
    tokenizer = train_tokenizer(texts, 400, tmp_path / "tokenizer")
    record = measured("good", tmp_path, tokenizer=tokenizer)
    sample = [d.text for d in read_documents(open_corpus("toyworld:held_out", EXPERIMENT), "stop")]
    assert record["real"]["documents"] == 150 < len(sample)
    mean = np.mean([len(ids) for ids in tokenizer.encode(sample)])
    low, high = (record["real"]["tokens"][side] for side in ("low", "high"))
    assert low - 3 < mean < high + 3 and low < value(record["real"], "tokens") < high


def test_seeds_of_another_corpus_or_world_are_refused(tmp_path):
    corpus = open_corpus("toyworld", EXPERIMENT)
    write_corpus([Document("s", "Some text.", "", '{"document": "none"}')], tmp_path / "s")
    synthetic = open_corpus(str(tmp_path / "s"), EXPERIMENT)
    with pytest.raises(UserError, match="no document 'none'"):
        measure(EXPERIMENT, corpus, synthetic, tmp_path / "q")
    world = dataclasses.replace(EXPERIMENT.toyworld, seed=7)
    other = dataclasses.replace(EXPERIMENT, toyworld=world)
    good = written("good", tmp_path / "good")
    with pytest.raises(UserError, match=r"is not config\.toyworld's"):
        measure(other, corpus, good, tmp_path / "q")
    write_corpus([], tmp_path / "none")
    with pytest.raises(UserError, match="no document in it"):
        measure(EXPERIMENT, corpus, open_corpus(str(tmp_path / "none"), EXPERIMENT), tmp_path / "q")


def test_documents_of_no_known_seed_have_the_figures_of_texts(tmp_path):
    texts = [f"The {a} saw {n} {b} in the yard." for n in range(9) for a in "xyz" for b in "uvw"]
    write_corpus([Document(str(i), t) for i, t in enumerate(texts)], tmp_path / "c")
    corpus = open_corpus(str(tmp_path / "c"), EXPERIMENT)
    record = measure(EXPERIMENT, corpus, corpus, tmp_path / "q")
    assert "pair_copying" not in record["synthetic"] and "exact" not in record["synthetic"]
    assert value(record["synthetic"], "corpus_copying") == 1.0
    assert "corpus_copying" not in record["real"]  # they are the corpus
    assert "novelty_1" in record["synthetic"] and value(record["synthetic"], "novelty_8") == 0.0
    assert "Repetition" in markdown(record)


def test_the_table_has_the_papers_numbers_beside_ours(tmp_path):
    record = measured("good", tmp_path)
    found = {row["metric"]: row for row in rows(record)}
    assert list(found["repetition"]["paper"].values()) == [4.3, 3.9, 2.6, 1.8]
    assert found["exact.non_factual"]["paper"] == dict(
        zip(found["repetition"]["paper"], PAPER["non_factual"], strict=True)
    )
    text = markdown(record)
    line = next(line for line in text.splitlines() if "Pair-irrelevance, exact" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:] == ["0.0 ± 0.0", "–", "25.6", "7.8", "6.0", "–"]
    assert "Duplicate@120" in text and "judged" not in text


@given(TEXTS)
def test_repeated_words_are_counted_as_one_by_one(texts):
    def slowly(text):
        words, seen, covered = normal_form(text).split(), set(), set()
        for i in range(len(words) - 4):
            gram = tuple(words[i : i + 5])
            if gram in seen:
                covered.update(range(i, i + 5))
            seen.add(gram)
        return len(covered) / len(words) if words else 0.0

    np.testing.assert_allclose(repeated_shares(texts), [slowly(text) for text in texts])


@given(TEXTS, TEXTS)
def test_new_n_grams_are_counted_as_one_by_one(tmp_path_factory, texts, real):
    folder = tmp_path_factory.mktemp("novelty")
    (folder / "c").mkdir()
    write_corpus([Document(str(i), text) for i, text in enumerate(real)], folder / "c")
    corpus = open_corpus(str(folder / "c"), EXPERIMENT)

    def grams(text, n):
        words = normal_form(text).split()
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    kept = [document.text for document in read_documents(corpus, "skip")]
    on_error = dataclasses.replace(EXPERIMENT.data, on_error="skip")
    found = novelty(corpus, texts, dataclasses.replace(EXPERIMENT, data=on_error), folder / "w")
    for n in NOVEL:
        known = {gram for text in kept for gram in grams(text, n)}
        all_of = [gram for text in texts for gram in grams(text, n)]
        share = sum(gram not in known for gram in all_of) / len(all_of) if all_of else None
        assert found[f"novelty_{n}"]["value"] == (share and pytest.approx(share)) or share == 0.0


def test_intervals_hold_what_they_should():
    random_ = np.random.default_rng(0)
    inside = {"share": [], "ratio": []}
    for _ in range(2000):
        figure = figures.share(random_.random(200) < 0.03)
        inside["share"].append(figure["low"] <= 0.03 <= figure["high"])
        sizes = random_.integers(5, 50, 200)
        figure = figures.ratio(random_.binomial(sizes, 0.3), sizes)
        inside["ratio"].append(figure["low"] <= 0.3 <= figure["high"])
    for name, holds in inside.items():
        assert 0.93 < np.mean(holds) < 0.98, name
    none = figures.share(np.zeros(100, bool))
    assert none["value"] == none["low"] == 0.0 and 0.02 < none["high"] < 0.05
    assert figures.share(np.zeros(0, bool))["value"] is None
    assert figures.mean([])["value"] is None and figures.mean([2.0])["stderr"] is None
    assert math.isclose(figures.mean([1.0, 3.0], quantiles=True)["quantiles"]["0.5"], 2.0)


def command(*flags):
    return subprocess.run(
        [sys.executable, "-m", "sbp_jax.quality", "--config=configs/laptop.py", *flags],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
        capture_output=True,
        text=True,
    )


def test_the_command_writes_quality_and_prints_the_table(tmp_path):
    written("good", tmp_path / "good")
    flags = [
        f"--input={tmp_path / 'good'}", "--corpus=toyworld", f"--workdir={tmp_path / 'w'}",
        "--config.toyworld.documents=400", "--config.toyworld.noise=0.0",
        "--config.toyworld.ambiguous=0.0", "--config.quality.samples=50",
    ]  # fmt: skip
    done = command(*flags, "--real=toyworld:held_out")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "w" / "quality.json").read_text())
    assert done.stdout.strip() == markdown(record).strip()
    for mistake, message in (
        (["--judge=jax"], "--checkpoint is missing"),
        (["--checkpoint=runs/x"], "--checkpoint is of a judge"),
        (["--config.quality.similarity=2.0"], "config.quality.similarity is 2.0; it has to be"),
    ):
        done = command(*flags, *mistake)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert message in done.stderr.splitlines()[-1]
