"""Filters on corpora that are small enough to know every count, and folders that survive."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from sbp_jax.config import DataConfig, Experiment, PairingConfig
from sbp_jax.data.corpus import Document, open_corpus, write_corpus
from sbp_jax.errors import UserError
from sbp_jax.pairing import embed, overlap, pairs
from sbp_jax.pairing.embed import Documents, find_neighbors
from sbp_jax.pairing.pairs import candidates, write_pairs

WORDS = [f"word{i}" for i in range(400)]
ALL = PairingConfig(
    dimensions=64, neighbors=3, min_score=-1, max_score=1, max_overlap=1.0, shingle=3
)


def make(folder, texts, sources=None, rows_per_shard=100):
    sources = sources or [""] * len(texts)
    documents = [
        Document(f"doc{i}", t, s) for i, (t, s) in enumerate(zip(texts, sources, strict=True))
    ]
    write_corpus(documents, folder / "corpus", rows_per_shard=rows_per_shard)
    return str(folder / "corpus")


def random_texts(count, seed=0):
    """Of topics, so that some are alike."""
    random = np.random.default_rng(seed)
    topics = random.integers(len(WORDS), size=(max(count // 6, 2), 12))
    return [
        " ".join(WORDS[w] for w in random.permutation([*topics[i % len(topics)], *rest]))
        for i, rest in enumerate(random.integers(len(WORDS), size=(count, 8)))
    ]


def run(spec, folder, pairing=ALL, workers=1, **changes):
    experiment = Experiment(
        data=DataConfig(workers=workers), pairing=dataclasses.replace(pairing, **changes)
    )
    neighbors = folder.parent / "neighbors"
    find_neighbors(open_corpus(spec, experiment), experiment, neighbors)
    manifest = write_pairs(neighbors, experiment, folder)
    return manifest, pq.read_table(folder / "part-00000.parquet").to_pylist()


def contents(*folders):
    return {
        (i, str(path.relative_to(folder))): path.read_bytes()
        for i, folder in enumerate(folders)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_without_filters_each_document_is_paired_with_its_neighbours(tmp_path):
    texts = random_texts(60)
    manifest, rows = run(make(tmp_path, texts), tmp_path / "pairs")
    assert manifest["counts"]["candidates"] == manifest["counts"]["pairs"] == len(rows) == 180
    assert manifest["d1_documents"] == 60
    numbers = [(int(row["id1"][3:]), int(row["id2"][3:])) for row in rows]
    assert all(a != b for a, b in numbers) and len(set(numbers)) == 180
    vectors = np.load(tmp_path / "neighbors" / "vectors.npy")
    for row, (a, b) in zip(rows, numbers, strict=True):
        assert row["d1"] == texts[a] and row["d2"] == texts[b]
        assert row["score"] == pytest.approx(vectors[a] @ vectors[b], abs=1e-6)
    assert [row["score"] for row in rows] == sorted((r["score"] for r in rows), reverse=True)
    topics = [a % 10 == b % 10 for a, b in numbers]
    assert np.mean(topics) > 0.95


def test_every_filter_takes_what_it_should_and_says_how_much(tmp_path):
    texts = random_texts(60)
    texts[7] = texts[3].upper() + "!"  # a repeat but for case and punctuation
    texts[11] = texts[5] + " " + texts[5].replace("word", "term")  # which holds another in whole
    texts[13] = "short text"
    sources = ["a" if i % 2 else "b" for i in range(60)]
    spec = make(tmp_path, texts, sources)
    _, everything = run(spec, tmp_path / "all")
    as_set = lambda rows: {(r["id1"], r["id2"]) for r in rows}  # noqa: E731
    number = lambda id: int(id[3:])  # noqa: E731

    def check(name, gone, **changes):
        manifest, rows = run(spec, tmp_path / name, **changes)
        repeats = {("doc3", "doc7"), ("doc7", "doc3")}
        before = {(r["id1"], r["id2"]): r for r in everything} | dict.fromkeys(repeats)
        left = {ids for ids, r in before.items() if ids not in repeats and not gone(r)}
        assert as_set(rows) == left
        taken = manifest["counts"][name]
        assert taken == len(before) - 2 - len(left) > 0
        assert manifest["counts"]["repeats"] == 2
        others = set(manifest["counts"]) - {name, "candidates", "pairs", "repeats"}
        assert not any(manifest["counts"][other] for other in others)
        return rows

    check("below_min_score", lambda r: r["score"] < 0.4, min_score=0.4)
    check("above_max_score", lambda r: r["score"] > 0.6, max_score=0.6)
    check("length", lambda r: min(len(r["d1"]), len(r["d2"])) < 50, min_characters=50)
    check(
        "same_source",
        lambda r: number(r["id1"]) % 2 == number(r["id2"]) % 2,
        same_source=False,
    )
    inside = {"doc5", "doc11"}
    assert inside in [{r["id1"], r["id2"]} for r in everything]
    check("overlap", lambda r: {r["id1"], r["id2"]} == inside, max_overlap=0.9)
    rows = check(
        "max_per_document",
        lambda r: r is not next(x for x in everything if x["id1"] == r["id1"]),
        max_per_document=1,
    )
    assert len({r["id1"] for r in rows}) == len(rows)
    best = check("beyond_the_best", lambda r: r not in everything[:20], pairs=20)
    assert best == everything[:20]


def test_orders_are_the_neighbours_own_or_both_or_one():
    ids = np.array([[1], [0], [1]])
    scores = np.array([[0.9], [0.9], [0.5]], np.float32)

    def ordered(orders):
        return sorted(zip(*(x.tolist() for x in candidates(ids, scores, orders)), strict=True))

    high = float(np.float32(0.9))
    assert ordered("neighbors") == [(0, 1, high), (1, 0, high), (2, 1, 0.5)]
    assert ordered("both") == [(0, 1, high), (1, 0, high), (1, 2, 0.5), (2, 1, 0.5)]
    assert ordered("one") == [(0, 1, high), (1, 2, 0.5)]


def test_overlap_is_the_share_of_the_shorter_ones_shingles():
    texts = ["a b c d e f", "B, c d E!", "x a b c y", "a b", "A B", "", "a b c"]
    sets = overlap.shingles(texts, 3)
    assert [len(s) for s in sets] == [4, 2, 3, 1, 1, 0, 1]
    measured = lambda i, j: overlap.overlap(sets[i], sets[j])  # noqa: E731
    assert measured(0, 1) == measured(1, 0) == 1.0
    assert measured(0, 2) == pytest.approx(1 / 3)
    assert measured(3, 4) == 1.0 and measured(0, 3) == measured(0, 5) == 0.0
    assert measured(2, 6) == 1.0
    assert [len(s) for s in overlap.shingles(["a b", "", "c"], 3)] == [1, 0, 1]


def test_the_control_has_the_same_d1_in_every_row_and_filters_all_the_same(tmp_path):
    texts = random_texts(60)
    texts[7] = texts[3]
    spec = make(tmp_path, texts, ["a" if i % 3 else "b" for i in range(60)])
    changes = {"same_source": False, "min_score": 0.2}
    real, rows = run(spec, tmp_path / "pairs", **changes)
    control, drawn = run(spec, tmp_path / "control", **changes, random_pairs=True)
    assert control["counts"] == real["counts"]
    assert [r["id1"] for r in drawn] == [r["id1"] for r in rows]
    assert len({(r["id1"], r["id2"]) for r in drawn}) == len(drawn)
    number = lambda id: int(id[3:])  # noqa: E731
    assert all(bool(number(r["id1"]) % 3) != bool(number(r["id2"]) % 3) for r in drawn)
    assert np.mean([r["score"] for r in drawn]) < 0.5 * np.mean([r["score"] for r in rows])
    same_topic = np.mean([number(r["id1"]) % 10 == number(r["id2"]) % 10 for r in drawn])
    assert same_topic < 0.3
    again, _ = run(spec, tmp_path / "again", **changes, random_pairs=True)
    assert again == control
    with pytest.raises(UserError, match="100 draws found no d2 for document"):
        many = tmp_path / "many"
        spec = make(many, random_texts(300), ["a", *["b"] * 299])
        run(spec, many / "pairs", same_source=False, random_pairs=True)


@pytest.mark.slow
def test_workers_and_shards_of_work_change_no_byte(tmp_path, monkeypatch):
    spec = make(tmp_path, random_texts(200), rows_per_shard=40)
    for name, workers in (("one", 1), ("four", 4)):
        (tmp_path / name).mkdir()
        run(spec, tmp_path / name / "pairs", workers=workers, max_overlap=0.5)
    assert contents(tmp_path / "one") == contents(tmp_path / "four")


def test_a_kill_after_any_file_leaves_the_same_bytes(tmp_path, monkeypatch):
    """What a kill leaves is whole files: here each write in turn is the last one."""
    spec = make(tmp_path, random_texts(90), rows_per_shard=40)
    whole = tmp_path / "whole"
    monkeypatch.setattr(embed, "DOCUMENTS", 25)
    monkeypatch.setattr(embed, "BATCH", 10)
    monkeypatch.setattr(overlap, "PAIRS", 100)
    monkeypatch.setattr(pairs, "ROWS", 100)
    run(spec, whole / "pairs")
    write, writes, limit = embed.files.write_bytes, 0, 0

    class Kill(BaseException):
        pass

    def counted(path, data):
        nonlocal writes
        if writes == limit:
            raise Kill
        writes += 1
        write(path, data)

    monkeypatch.setattr(embed.files, "write_bytes", counted)
    done = False
    while not done:
        writes, limit = 0, limit + 1
        if limit > 1 and limit % 3:  # every third place is enough
            continue
        folder = tmp_path / f"killed{limit}"
        try:
            run(spec, folder / "pairs")
            done = True
        except Kill:
            monkeypatch.setattr(embed.files, "write_bytes", write)
            run(spec, folder / "pairs")
            monkeypatch.setattr(embed.files, "write_bytes", counted)
        assert contents(folder) == contents(whole)
    assert limit > 20


def test_what_is_finished_is_left_alone_and_another_config_is_refused(tmp_path):
    spec = make(tmp_path, random_texts(30))
    run(spec, tmp_path / "pairs")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    run(spec, tmp_path / "pairs")
    assert all(path.stat().st_mtime_ns == at for path, at in before.items() if path.name != ".lock")
    with pytest.raises(UserError, match="config.pairing.min_score -1 -> 0.5"):
        run(spec, tmp_path / "pairs", min_score=0.5)
    with pytest.raises(UserError, match="neighbors 3 -> 4"):
        run(spec, tmp_path / "other", neighbors=4)
    with pytest.raises(UserError, match="no pair is left .*below_min_score 90.*loosen"):
        run(spec, tmp_path / "none", min_score=1.0)
    run(spec, tmp_path / "none", min_score=0.0)
    with pytest.raises(UserError, match="Parquet files of something else"):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "a.parquet").write_bytes(b"")
        run(spec, tmp_path / "mine")


def test_malformed_rows_are_counted_or_stop_it(tmp_path):
    file = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": text}) for text in random_texts(20)]
    file.write_text("\n".join([*lines[:10], "{", *lines[10:]]))
    experiment = Experiment(data=DataConfig(workers=1), pairing=ALL)
    with pytest.raises(UserError, match="texts.jsonl"):
        find_neighbors(open_corpus(str(file), experiment), experiment, tmp_path / "stop")
    skip = dataclasses.replace(experiment, data=DataConfig(workers=1, on_error="skip"))
    manifest = find_neighbors(open_corpus(str(file), skip), skip, tmp_path / "skip")
    assert (manifest["documents"], manifest["skipped"]) == (20, 1)
    assert len(Documents(tmp_path / "skip")) == 20
    file.write_text(lines[0])
    with pytest.raises(UserError, match="fewer than two documents"):
        find_neighbors(open_corpus(str(file), skip), skip, tmp_path / "few")


def test_ids_that_are_not_of_one_document_are_said(tmp_path, caplog):
    texts = random_texts(12)
    documents = [Document(f"doc{i // 2}" if i < 6 else f"doc{i}", t) for i, t in enumerate(texts)]
    write_corpus(documents, tmp_path / "corpus")
    experiment = Experiment(data=DataConfig(workers=1), pairing=ALL)
    corpus = open_corpus(str(tmp_path / "corpus"), experiment)
    with caplog.at_level("WARNING", "sbp_jax"):
        manifest = find_neighbors(corpus, experiment, tmp_path / "neighbors")
    assert manifest["repeated_ids"] == 3
    assert "3 documents have the id of another" in caplog.text


def test_a_corpus_that_was_refused_may_be_mended(tmp_path):
    file = tmp_path / "texts.jsonl"
    experiment = Experiment(data=DataConfig(workers=1), pairing=ALL)
    lines = [json.dumps({"text": text}) for text in random_texts(5)]
    file.write_text("\n".join([*lines[:4], "{"]))
    with pytest.raises(UserError, match="texts.jsonl:5: not valid JSON"):
        find_neighbors(open_corpus(str(file), experiment), experiment, tmp_path / "n")
    file.write_text("\n".join(lines))
    corpus = open_corpus(str(file), experiment)
    assert find_neighbors(corpus, experiment, tmp_path / "n")["documents"] == 5


MEMORY = """
import resource, sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from sbp_jax import files
from sbp_jax.pairing.embed import SCHEMA, Documents

folder, names = Path(sys.argv[1]), []
for part in range(16):
    names.append(f"{part}.arrow")
    with pa.OSFile(str(folder / names[-1]), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for batch in range(10):
            texts = [f"{part} {batch} {row} " * 1000 for row in range(100)]
            rest = [[""] * 100, [len(t) for t in texts], [0] * 100]
            ids = [f"{part}-{batch}-{row}" for row in range(100)]
            writer.write_table(pa.table([ids, texts, *rest], schema=SCHEMA))
np.save(folder / "vectors.npy", np.zeros((16_000, 1), np.float32))
files.write_manifest(folder, {"files": names})
documents = Documents(folder)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
numbers = np.array([15_999, 3, 3, 8_421, 0])
assert documents.column("id", numbers) == ["15-9-99", "0-0-3", "0-0-3", "8-4-21", "0-0-0"]
assert [t[:7] for t in documents.column("text", numbers)][3] == "8 4 21 "
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, "KB")
"""


def test_texts_of_some_documents_do_not_take_the_memory_of_all(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    size = sum(path.stat().st_size for path in tmp_path.glob("*.arrow"))
    assert size > 100e6 > 5 * 1024 * int(done.stdout.split()[0])
