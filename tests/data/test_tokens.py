"""The token store: what is written is what is read, whatever interrupts or damages it."""

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbp_jax.config import DataConfig, Experiment, ModelConfig
from sbp_jax.data import write_tokens as writing
from sbp_jax.data.corpus import Corpus, Document
from sbp_jax.data.pack import write_pairs
from sbp_jax.data.tokenizer import load_tokenizer, train_tokenizer
from sbp_jax.data.tokens import FIRST, TARGET, TokenStore, sole_writer, verify
from sbp_jax.data.write_tokens import write_tokens
from sbp_jax.errors import UserError
from sbp_jax.tokenize import prepare_store

TEXTS = [
    [f"Document {i} of shard {shard} " + "says little, " * (i % 7) for i in range(100)]
    for shard in range(3)
]

# Three shards in small pieces, so that each has several runs and the tape has several files.
SCRIPT = """
import dataclasses, sys, time
from sbp_jax.data.corpus import Corpus, Document
from sbp_jax.data.write_tokens import write_tokens

@dataclasses.dataclass(frozen=True)
class SlowShard:
    name: str
    delay: float
    def read(self, on_bad_row):
        for i in range(100):
            time.sleep(self.delay)
            text = f"Document {i} of shard {self.name} " + "says little, " * (i % 7)
            yield Document(str(i), text)

if __name__ == "__main__":
    tokenizer, output, workers, delay = sys.argv[1:]
    corpus = Corpus("slow", [SlowShard(str(i), float(delay)) for i in range(3)], "slow")
    write_tokens(corpus, tokenizer, output, seed=1, held_out=0.1, workers=int(workers),
                 on_error="stop", shard_tokens=1024)
"""


@dataclass(frozen=True)
class Texts:
    name: str
    texts: list[str]
    bad: int = 0

    def read(self, on_bad_row):
        for i in range(self.bad):
            on_bad_row(UserError(f"{self.name}:{i}: broken"))
        for i, text in enumerate(self.texts):
            yield Document(f"{self.name}:{i}", text)


class Letters:
    """One id a byte; eos 0, bos 1 if wanted."""

    fingerprint = "letters"
    eos_id = 0

    def __init__(self, vocab_size=258, bos_id=1):
        self.vocab_size, self.bos_id = vocab_size, bos_id

    def encode(self, texts):
        return [[2 + byte for byte in text.encode()] for text in texts]


def corpus_of(shards, fingerprint="f", **kwargs):
    return Corpus("test", [Texts(str(i), t, **kwargs) for i, t in enumerate(shards)], fingerprint)


@pytest.fixture
def letters(monkeypatch):
    tokenizer = Letters()
    monkeypatch.setattr(writing, "load_tokenizer", lambda path: tokenizer)
    writing._tokenizer.cache_clear()
    yield tokenizer
    writing._tokenizer.cache_clear()


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([text for shard in TEXTS for text in shard], 300, folder)
    return str(folder)


def write(corpus, output, **changes):
    arguments = {"seed": 0, "held_out": 0.1, "workers": 1, "on_error": "stop", **changes}
    return write_tokens(corpus, "letters", output, **arguments)


def file_hashes(folder: Path) -> dict[str, str]:
    found = (p for p in Path(folder).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def decoded(store: TokenStore) -> list[str]:
    documents = [store.document(i) for i in range(store.num_documents)]
    assert all(d[0] == 1 and d[-1] == 0 for d in documents)
    return [bytes((d[1:-1] - 2).astype(np.uint8)).decode() for d in documents]


@settings(max_examples=20, deadline=None)
@given(
    shards=st.lists(st.lists(st.text(max_size=40), max_size=12), min_size=1, max_size=4),
    shard_tokens=st.sampled_from([16, 64, 1 << 16]),
    seed=st.integers(0, 5),
)
def test_every_document_is_on_the_tape_once_and_offsets_find_it(shards, shard_tokens, seed):
    import tempfile

    texts = [text for shard in shards for text in shard]
    if not texts:
        return
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(writing, "load_tokenizer", lambda path: Letters())
        write(corpus_of(shards), folder, seed=seed, held_out=0.0, shard_tokens=shard_tokens)
        store = TokenStore(folder)
        assert sorted(decoded(store)) == sorted(texts)
        tape = np.concatenate([store.document(i) for i in range(len(texts))])
        np.testing.assert_array_equal(store.read(0, store.num_tokens), tape)
        assert store.num_tokens == sum(len(t.encode()) + 2 for t in texts)
        verify(folder)


def test_documents_are_shuffled_across_shards_by_the_seed_alone(letters, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write(corpus_of(TEXTS), tmp_path / name, seed=seed)
    a, b, c = (decoded(TokenStore(tmp_path / name)) for name in "abc")
    assert a == b and a != c and sorted(a) == sorted(c)
    shard = [int(text.split("shard ")[1].split()[0]) for text in a]
    neighbours = np.mean(np.array(shard[1:]) == np.array(shard[:-1]))
    assert 0.2 < neighbours < 0.45  # a third, if order and shard have nothing to do with each other


def test_size_of_files_does_not_change_the_tape(letters, tmp_path):
    sizes = (500, 5000, 1 << 20)
    for size in sizes:
        write(corpus_of(TEXTS), tmp_path / str(size), shard_tokens=size)
    tapes = [TokenStore(tmp_path / str(size)) for size in sizes]
    assert tapes[0].manifest["held_out_tokens"] == tapes[2].manifest["held_out_tokens"]
    for tape in tapes[:2]:
        np.testing.assert_array_equal(
            tape.read(0, tape.num_tokens), tapes[2].read(0, tape.num_tokens)
        )


def test_manifest_counts_what_is_there(letters, tmp_path):
    manifest = write(corpus_of(TEXTS, bad=2), tmp_path / "s", on_error="skip")
    assert json.loads((tmp_path / "s" / "manifest.json").read_text()) == manifest
    assert manifest["kind"] == "tokens" and manifest["dtype"] == "uint16"
    assert (manifest["documents"], manifest["skipped"]) == (300, 6)
    assert manifest["held_out_documents"] == 30
    store = TokenStore(tmp_path / "s")
    held_out = sum(len(store.document(i)) for i in range(270, 300))
    assert manifest["held_out_tokens"] == held_out
    assert store.num_training_tokens == manifest["tokens"] - held_out
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [
        "manifest.json",
        "offsets",
        "tokens",
    ]


def test_bad_row_stops_the_job_unless_told_to_skip(letters, tmp_path):
    with pytest.raises(UserError, match="0:0: broken"):
        write(corpus_of(TEXTS, bad=1), tmp_path)
    with pytest.raises(UserError, match="no manifest.json"):
        TokenStore(tmp_path)


def test_large_vocabulary_takes_four_bytes(monkeypatch, tmp_path):
    monkeypatch.setattr(writing, "load_tokenizer", lambda path: Letters(70_000, bos_id=69_999))
    writing._tokenizer.cache_clear()
    write(corpus_of([["a", "b"]]), tmp_path)
    writing._tokenizer.cache_clear()
    assert TokenStore(tmp_path).manifest["dtype"] == "uint32"
    assert TokenStore(tmp_path).document(0)[0] == 69_999


def test_holding_out_every_document_is_refused(letters, tmp_path):
    with pytest.raises(UserError, match="none is left to train on; .* others in eval.input"):
        write(corpus_of([["only one"]]), tmp_path)


def test_empty_corpus_is_refused(letters, tmp_path):
    with pytest.raises(UserError, match="no documents"):
        write(corpus_of([[]]), tmp_path, held_out=0.0)


def test_id_outside_the_vocabulary_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(writing, "load_tokenizer", lambda path: Letters(vocab_size=100))
    writing._tokenizer.cache_clear()
    with pytest.raises(UserError, match="document '0:1' a token id outside its vocabulary of 100"):
        write(corpus_of([["AB", "zz"]]), tmp_path)
    writing._tokenizer.cache_clear()


def test_finished_store_is_returned_and_other_inputs_are_refused(letters, tmp_path):
    first = write(corpus_of(TEXTS), tmp_path)
    before = file_hashes(tmp_path)
    assert write(corpus_of(TEXTS), tmp_path) == first
    assert file_hashes(tmp_path) == before
    with pytest.raises(UserError, match="corpus_fingerprint 'f' -> 'g'"):
        write(corpus_of(TEXTS, fingerprint="g"), tmp_path)
    with pytest.raises(UserError, match="held_out 0.1 -> 0.2.*another output"):
        write(corpus_of(TEXTS), tmp_path, held_out=0.2)
    assert file_hashes(tmp_path) == before


def test_paths_may_hold_two_dots_and_follow_links_as_the_system_does(letters, tmp_path):
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    for output, place in (("far/../a", "a"), ("link/../b", "far/b")):
        manifest = write(corpus_of(TEXTS), tmp_path / output)
        assert TokenStore(f"{tmp_path}/{output}").document(0)[0] == 1
        assert file_hashes(tmp_path / place).keys() == {"manifest.json", *manifest["files"]}


def test_an_unfinished_store_is_no_corpus(letters, tmp_path):
    with pytest.raises(UserError, match="broken"):
        write(Corpus("c", [Texts("a", ["x"]), Texts("b", [], bad=1)], "f"), tmp_path / "a")
    with pytest.raises(UserError, match="an unfinished token store; run the command"):
        prepare_store(str(tmp_path / "a"), tmp_path / "out", experiment_of())

    write(corpus_of(TEXTS), tmp_path / "torn")
    (tmp_path / "torn" / "manifest.json").write_text('{"kind": "tok')
    with pytest.raises(UserError, match="an unfinished token store; run the command"):
        prepare_store(str(tmp_path / "torn"), tmp_path / "out", experiment_of())

    def dying():
        yield [5], [6]
        raise KeyboardInterrupt

    pairs = {"tokenizer": Letters(), "row_length": 8, "name": "pairs", "fingerprint": "a"}
    with pytest.raises(KeyboardInterrupt):
        write_pairs(dying(), tmp_path / "pairs", **pairs)
    with pytest.raises(UserError, match="an unfinished token store; run the command"):
        prepare_store(str(tmp_path / "pairs"), tmp_path / "out", experiment_of())


def test_tokenizing_is_announced_before_the_work_and_not_repeated(letters, tmp_path, caplog):
    caplog.set_level("INFO", logger="sbp_jax")
    write(corpus_of(TEXTS), tmp_path)
    assert caplog.messages[0] == "tokenizing test"
    caplog.clear()
    write(corpus_of(TEXTS), tmp_path)
    assert not caplog.messages


def test_half_written_store_of_other_inputs_is_refused(letters, tmp_path):
    with pytest.raises(UserError, match="broken"):
        write(Corpus("c", [Texts("a", ["x"]), Texts("b", [], bad=1)], "f"), tmp_path)
    with pytest.raises(UserError, match="seed 0 -> 7"):
        write(Corpus("c", [Texts("a", ["x"])], "f"), tmp_path, seed=7)


def test_unwritable_output_is_one_line(letters, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file"):
        write(corpus_of(TEXTS), tmp_path / "file" / "store")


def test_every_flipped_byte_is_found_and_named(letters, tmp_path):
    write(corpus_of(TEXTS), tmp_path / "sound", shard_tokens=4096)
    whole = TokenStore(tmp_path / "sound")
    tape = whole.read(0, whole.num_tokens)
    rng = random.Random(0)
    for name in file_hashes(tmp_path / "sound"):
        for _ in range(4):
            broken = tmp_path / "broken"
            shutil.copytree(tmp_path / "sound", broken)
            data = bytearray((broken / name).read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            (broken / name).write_bytes(data)
            with pytest.raises(UserError, match=name if "/c/" in name else str(broken)):
                verify(broken)
            try:  # the same tape or an error, never other tokens
                store = TokenStore(broken)
                np.testing.assert_array_equal(store.read(0, store.num_tokens), tape)
                for i in range(store.num_documents):
                    np.testing.assert_array_equal(store.document(i), whole.document(i))
            except UserError as error:
                assert str(broken) in str(error)
            else:
                assert name.endswith("zarr.json")  # not every byte of it matters
            shutil.rmtree(broken)


def test_missing_or_shortened_file_is_an_error_not_zeros(letters, tmp_path):
    write(corpus_of(TEXTS), tmp_path, shard_tokens=1024)
    shard = tmp_path / "tokens/c/2"
    data = shard.read_bytes()
    for damage in (lambda: shard.write_bytes(data[:-30]), shard.unlink):
        damage()
        with pytest.raises(UserError, match="tokens"):
            TokenStore(tmp_path).read(2048, 2060)
        with pytest.raises(UserError, match="tokens/c/2"):
            verify(tmp_path)


def test_windows_are_slices_and_repeat_the_last_token_past_the_end(letters, tmp_path, monkeypatch):
    write(corpus_of(TEXTS), tmp_path, shard_tokens=1024)
    store = TokenStore(tmp_path)
    tape = store.read(0, store.num_tokens)
    starts = np.array([5, 1020, 0, store.num_tokens - 3])
    from_memory = store.windows(starts, 9)
    monkeypatch.setattr("sbp_jax.data.tokens.IN_MEMORY_BYTES", 0)
    from_disk = TokenStore(tmp_path).windows(starts, 9)
    for windows in (from_memory, from_disk):
        for row, start in zip(windows, starts, strict=True):
            expected = [*tape[start : start + 9], *[tape[-1]] * 9][:9]
            np.testing.assert_array_equal(row, expected)


def run_script(tmp_path, tokenizer, output, workers, delay):
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(script), tokenizer, str(output), str(workers), str(delay)]
    return subprocess.Popen(command, env=environment, start_new_session=True)


@pytest.mark.multiprocess
def test_workers_kills_and_resumes_leave_the_same_bytes(tmp_path, sentencepiece_model):
    assert run_script(tmp_path, sentencepiece_model, tmp_path / "plain", 1, 0).wait() == 0
    expected = file_hashes(tmp_path / "plain")
    assert len([name for name in expected if name.startswith("tokens/c/")]) > 3
    rng = random.Random(1)
    kills = 0
    for attempt in range(30):
        delay = 0.01 if attempt < 3 else 0
        job = run_script(tmp_path, sentencepiece_model, tmp_path / "killed", 2, delay)
        try:
            job.wait(timeout=rng.uniform(1, 3) if attempt < 3 else 60)
        except subprocess.TimeoutExpired:
            job.send_signal(signal.SIGKILL)
            job.wait()
            kills += 1
        if job.returncode == 0:
            break
    assert kills > 0
    assert file_hashes(tmp_path / "killed") == expected
    verify(tmp_path / "killed")


@pytest.mark.multiprocess
def test_workers_end_with_a_killed_parent(tmp_path, sentencepiece_model):
    job = run_script(tmp_path, sentencepiece_model, tmp_path / "out", 2, 0.2)
    deadline = time.monotonic() + 600

    def members() -> list[int]:
        listed = subprocess.run(["ps", "-eo", "pid,pgid"], capture_output=True, text=True).stdout
        rows = (line.split() for line in listed.splitlines()[1:])
        return [int(pid) for pid, group in rows if int(group) == job.pid]

    while len(members()) < 3:
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(2)  # the workers are in their tasks
    job.kill()
    job.wait()
    while members() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not members()


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=120),
    row_length=st.integers(8, 20),
)
def test_packed_rows_hold_each_example_whole_with_its_targets_marked(lengths, row_length):
    import tempfile

    examples = [([10 + i % 50] * c, [100 + i % 50] * t) for i, (c, t) in enumerate(lengths)]
    fitting = [e for e in examples if 1 < len(e[0]) + len(e[1]) <= row_length]
    if not fitting:
        return
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_pairs(
            examples,
            folder,
            tokenizer=Letters(),
            row_length=row_length,
            name="pairs",
            fingerprint="p",
            shard_tokens=64,
        )
        store = TokenStore(folder)
        assert manifest["examples"] == len(fitting)
        assert manifest["left_out"] == len(examples) - len(fitting)
        found = []
        for row in range(store.num_documents):
            tokens = store.document(row)
            [marks] = store.mark_windows(np.array([row * row_length]), row_length)
            assert len(tokens) == row_length and marks[0] & FIRST
            borders = [*np.flatnonzero(marks & FIRST), row_length]
            for start, stop in zip(borders[:-1], borders[1:], strict=True):
                ids = tokens[start:stop].tolist()
                if ids[0] == 0:
                    assert set(ids) == {0} and not (marks[start:stop] & TARGET).any()
                    continue
                context = [i for i in ids if i < 100]
                found.append((context, ids[len(context) :]))
                expected = [start + j >= start + max(1, len(context)) for j in range(len(ids))]
                assert (marks[start:stop] & TARGET != 0).tolist() == expected
        assert sorted(found) == sorted((list(c), list(t)) for c, t in fitting)
        verify(folder)


def test_packing_is_idempotent_and_refuses_other_examples(tmp_path):
    arguments = {"tokenizer": Letters(), "row_length": 8, "name": "pairs"}
    first = write_pairs([([5, 6], [7, 0])], tmp_path, fingerprint="a", **arguments)
    assert write_pairs(iter([]), tmp_path, fingerprint="a", **arguments) == first
    with pytest.raises(UserError, match="corpus_fingerprint"):
        write_pairs([([5], [0])], tmp_path, fingerprint="b", **arguments)


def test_pairs_that_fit_no_row_are_refused(tmp_path):
    with pytest.raises(UserError, match="raise data.sequence_length"):
        write_pairs(
            [([5] * 20, [7])],
            tmp_path,
            tokenizer=Letters(),
            row_length=8,
            name="pairs",
            fingerprint="a",
        )


def experiment_of(**changes) -> Experiment:
    return Experiment(model=ModelConfig(vocab_size=300), data=DataConfig(workers=1, **changes))


def test_prepared_store_carries_the_tokenizer_that_it_trained(tmp_path):
    (tmp_path / "texts.txt").write_text("\n\n".join(text for shard in TEXTS for text in shard))
    spec, output = str(tmp_path / "texts.txt"), tmp_path / "store"
    store = prepare_store(spec, output, experiment_of(), held_out=0.0)
    before = file_hashes(output)
    tokenizer = load_tokenizer(str(output / "tokenizer"))
    ids = store.document(0).tolist()
    assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id
    assert tokenizer.decode(ids) == (tmp_path / "texts.txt").read_text()

    prepare_store(spec, output, experiment_of(), held_out=0.0)
    assert file_hashes(output) == before
    assert prepare_store(str(output), tmp_path / "unused", experiment_of()).path == store.path
    assert not (tmp_path / "unused").exists()
    with pytest.raises(UserError, match="tokenizer_kind 'bpe' -> 'unigram'"):
        prepare_store(spec, output, experiment_of(tokenizer_kind="unigram"), held_out=0.0)
    assert file_hashes(output) == before


def test_prepared_store_carries_the_tokenizer_that_it_was_given(tmp_path, sentencepiece_model):
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("Document 1 says little")
    (texts / "b.txt").write_text("Document 2 says little")
    for output in ("own", "again"):
        named = experiment_of(tokenizer=sentencepiece_model, held_out=0.5)
        store = prepare_store(str(texts), tmp_path / output / "store", named)
        carried = load_tokenizer(str(store.path / "tokenizer"))
        assert carried.fingerprint == load_tokenizer(sentencepiece_model).fingerprint
        assert store.manifest["held_out_documents"] == 1
        sentencepiece_model = str(store.path / "tokenizer")


@pytest.mark.parametrize("output", ["texts", "texts/store", "texts/sub/../store", "link/store"])
def test_an_output_inside_the_input_folder_is_refused_before_any_work(tmp_path, output):
    texts = tmp_path / "texts"
    texts.mkdir()
    (tmp_path / "link").symlink_to(texts)
    (texts / "a.txt").write_text("says little")
    with pytest.raises(UserError, match=f"{output} lies in the input folder {texts}"):
        prepare_store(str(texts), tmp_path / output, experiment_of())
    assert [p.name for p in texts.iterdir()] == ["a.txt"]


def test_an_output_beside_the_input_and_a_folder_called_toyworld_are_no_mistake(
    tmp_path, sentencepiece_model, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("says little")
    named = experiment_of(tokenizer=sentencepiece_model, held_out=0.0)
    prepare_store("texts", "texts_store", named)
    small = Experiment().toyworld
    small = dataclasses.replace(small, concepts=40, documents=5, held_out_documents=1)
    named = dataclasses.replace(named, toyworld=small)
    for _ in range(2):
        assert prepare_store("toyworld", "toyworld", named).num_documents == 5


def test_a_finished_store_is_opened_without_writing_and_another_tokenizer_is_refused(
    tmp_path, sentencepiece_model
):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS[0]))
    arguments = str(tmp_path / "a.txt"), tmp_path / "store"
    prepare_store(*arguments, experiment_of(tokenizer=sentencepiece_model, held_out=0.0))
    other = tmp_path / "other"
    train_tokenizer(TEXTS[0], 290, other)
    before = {path: path.stat() for path in tmp_path.rglob("*")}
    prepare_store(*arguments, experiment_of(tokenizer=sentencepiece_model, held_out=0.0))
    with pytest.raises(UserError, match="made from other inputs .*tokenizer"):
        prepare_store(*arguments, experiment_of(tokenizer=str(other), held_out=0.0))
    after = {path: path.stat() for path in tmp_path.rglob("*")}
    assert {p: (s.st_ino, s.st_mtime_ns) for p, s in before.items()} == {
        p: (s.st_ino, s.st_mtime_ns) for p, s in after.items()
    }


def test_a_second_writer_is_refused_and_a_dead_one_locks_nobody_out(tmp_path, sentencepiece_model):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS[0]))
    output = tmp_path / "store"
    named = experiment_of(tokenizer=sentencepiece_model, held_out=0.0)
    holder = (
        "import sys, time\nfrom sbp_jax.data.tokens import sole_writer\n"
        "with sole_writer(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", holder, f"{tmp_path}/else/../store"]
    (tmp_path / "else").mkdir()
    job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert job.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="store: another process is writing this; wait for it"):
            prepare_store(str(tmp_path / "a.txt"), output, named)
        with pytest.raises(UserError, match="another process is writing this; wait for it"):
            write_pairs(
                [([5], [6])],
                output,
                tokenizer=Letters(),
                row_length=8,
                name="pairs",
                fingerprint="a",
            )
        assert not output.exists()
    finally:
        job.kill()
        job.wait()
    prepare_store(str(tmp_path / "a.txt"), output, named)
    with sole_writer(output):  # a finished store is only opened, whoever writes
        prepare_store(str(tmp_path / "a.txt"), output, named)
