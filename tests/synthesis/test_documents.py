"""Answers become a corpus: what stays, where it comes from, and how many are drawn."""

import dataclasses
import json

import pytest

from sbp_jax.config import EvalConfig, Experiment, SynthesisConfig, ToyWorldConfig
from sbp_jax.data.corpus import Document, open_corpus, read_documents, write_corpus
from sbp_jax.data.tokenizer import train_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import Completion
from sbp_jax.synthesis import near
from sbp_jax.synthesis.documents import filtered, synthesize

TEXTS = [
    f"The {animal} of {place} sleeps in the {part} of the day and eats what it finds there."
    for animal in ("fox", "owl", "cat", "eel")
    for place in ("Arden", "Brome", "Celt")
    for part in ("heat", "rest")
]
EXPERIMENT = Experiment(synthesis=SynthesisConfig(prompt="{text}\n", max_tokens=40))


class Answering:
    """An engine by a function of the prompt and the seed; counts what it is asked."""

    fingerprint, tokenizer = "a model", None

    def __init__(self, answer):
        self.answer, self.asked = answer, 0

    def generate(self, requests):
        for request in requests:
            self.asked += 1
            text, reason = self.answer(request.prompt, request.seed)
            yield Completion(request.id, text, reason, 10, len(text.split()))

    def prompt_tokens(self, prompt):
        return 10

    def cost(self, prompt_tokens, new_tokens):
        return 0.0

    def close(self):
        pass


class Opener:
    def __init__(self, answer):
        self.engine = Answering(answer)

    def __call__(self):
        return self.engine

    def fingerprint(self):
        return self.engine.fingerprint


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(TEXTS * 5, 300, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def corpus(tmp_path):
    write_corpus([Document(f"d{i}", text) for i, text in enumerate(TEXTS)], tmp_path / "real")
    return open_corpus(str(tmp_path / "real"), EXPERIMENT)


def made(opener, corpus, tokenizer, folder, tokens=100, **options):
    return synthesize(
        EXPERIMENT, corpus, opener, folder, tokens=tokens, tokenizer=tokenizer, **options
    )


LONG = [" ".join(f"{name}{i}" for i in range(30)) + "." for name in ("sun", "moon", "star", "tide")]
HELD_OUT = " ".join(f"exam{i}" for i in range(20))


def turned(text, at, word):
    """The text with another word in one place."""
    words = text.split()
    return " ".join([*words[:at], word, *words[at + 1 :]])


@pytest.fixture
def long_corpus(tmp_path):
    write_corpus([Document(f"d{i}", text) for i, text in enumerate(LONG)], tmp_path / "long")
    return open_corpus(str(tmp_path / "long"), EXPERIMENT)


@pytest.fixture
def evaluation(tmp_path):
    write_corpus([Document("e0", HELD_OUT)], tmp_path / "evaluation")
    return tmp_path / "evaluation"


def kept(folder):
    return list(read_documents(open_corpus(str(folder / "kept"), EXPERIMENT), "stop"))


def test_every_filter_is_counted_and_what_stays_knows_its_seed(corpus, tokenizer, tmp_path):
    def answer(prompt, seed):
        d1 = prompt.removesuffix("\n")
        number = TEXTS.index(d1)
        return {
            0: (f"A new text about number {number} and the seed {seed}.", "length"),
            1: (TEXTS[0].upper(), "stop"),
            2: ("Always the same words, whoever asks for them.", "stop"),
            3: (f"{d1} That is all that anybody knows of it, {seed}.", "stop"),
        }.get(number % 6, (f"Somebody {seed} met number {number} in the evening.", "stop"))

    manifest = made(Opener(answer), corpus, tokenizer, tmp_path / "s")
    counts = manifest["counts"]
    answers = counts["answers"]
    assert counts == {
        "answers": answers,
        "unfinished": answers // 6,
        "in_the_corpus": answers // 6,
        "repeated": answers // 6 - 1,
        "copies": answers // 6,
        "contaminated": 0,
        "near_the_corpus": 0,
        "near_another": 0,
    }
    documents = kept(tmp_path / "s")
    assert len(documents) == manifest["documents"] == answers // 3 + 1
    for document in documents:
        meta = json.loads(document.meta)
        number = int(meta["document"].removeprefix("d"))
        assert f"number {number} " in document.text or number % 6 == 2
        assert meta["model"] == "a model" and "sample" in meta["arguments"]
    ids = [tokenizer.encode([document.text])[0] for document in documents]
    assert manifest["tokens"] == sum(len(row) + 1 for row in ids)


def nearly(prompt, seed):
    """To each seed what a filter of its own has to find; the last one's text is new."""
    number = LONG.index(prompt.removesuffix("\n"))
    new = " ".join(f"new{i}" for i in range(30))
    return (
        {
            0: turned(LONG[1], 15, "cloud"),  # of another document than d1
            1: f"As they say: {' '.join(HELD_OUT.split()[3:16])}, word by word.",
            2: new,
            3: turned(new, 28, "old"),
        }[number],
        "stop",
    )


def test_texts_near_the_corpus_near_each_other_or_of_an_evaluation_go(
    long_corpus, evaluation, tokenizer, tmp_path
):
    experiment = dataclasses.replace(EXPERIMENT, eval=EvalConfig(input=str(evaluation)))
    opener, folder = Opener(nearly), tmp_path / "s"
    manifest = synthesize(experiment, long_corpus, opener, folder, tokens=1, tokenizer=tokenizer)
    counts = {name: count for name, count in manifest["counts"].items() if count}
    assert counts == {"answers": 4, "near_the_corpus": 1, "contaminated": 1, "near_another": 1}
    assert [document.text.split()[28] for document in kept(folder)] == ["new28"]
    given = open_corpus(str(evaluation), EXPERIMENT)
    options = {"tokens": 1, "tokenizer": tokenizer, "evaluation": given}
    assert synthesize(EXPERIMENT, long_corpus, opener, folder, **options) == manifest


def test_a_changed_threshold_filters_again_and_asks_for_nothing(
    long_corpus, evaluation, tokenizer, tmp_path
):
    opener, folder = Opener(nearly), tmp_path / "s"
    options = {"tokens": 1, "tokenizer": tokenizer}
    for changes, left in (
        ({}, 2),
        ({"max_overlap": 1.0}, 3),
        ({"max_overlap": 1.0, "max_similarity": 1.0}, 4),
        ({"max_overlap": 1.0, "max_similarity": 1.0, "decontaminate": False}, 4),
    ):
        changed = dataclasses.replace(EXPERIMENT.synthesis, **changes)
        experiment = dataclasses.replace(EXPERIMENT, synthesis=changed)
        manifest = synthesize(experiment, long_corpus, opener, folder, **options)
        assert manifest["documents"] == left and opener.engine.asked == 4
    with_evaluation = dataclasses.replace(experiment, eval=EvalConfig(input=str(evaluation)))
    manifest = synthesize(with_evaluation, long_corpus, opener, folder, **options)
    assert manifest["documents"] == 4  # decontaminate is off


def test_a_filter_that_was_killed_goes_on_to_the_same_bytes(
    long_corpus, tokenizer, tmp_path, monkeypatch
):
    opener = Opener(nearly)
    whole = made(opener, long_corpus, tokenizer, tmp_path / "whole", tokens=1)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(near, "repeats", killed)
        synthesize(EXPERIMENT, long_corpus, opener, tmp_path / "s", tokens=1, tokenizer=tokenizer)
    assert list((tmp_path / "s" / "kept" / "work").glob("*/corpus/*/largest-*.npy"))
    assert made(opener, long_corpus, tokenizer, tmp_path / "s", tokens=1) == whole
    names = [sorted(p.name for p in (tmp_path / f / "kept").iterdir()) for f in ("s", "whole")]
    assert names[0] == names[1] == ["manifest.json", "part-00000.parquet"]


def test_most_real_documents_would_pass(tokenizer, tmp_path):
    """The rate at which real documents are taken for copies, duplicates or leaks."""
    experiment = dataclasses.replace(
        EXPERIMENT,
        toyworld=ToyWorldConfig(documents=1000, fresh_documents=1000),
        eval=EvalConfig(input="toyworld:held_out"),
    )
    fresh = read_documents(open_corpus("toyworld:fresh", experiment), "stop")
    texts = iter([document.text for document in fresh])
    opener = Opener(lambda prompt, seed: (next(texts), "stop"))
    corpus = open_corpus("toyworld", experiment)
    manifest = synthesize(experiment, corpus, opener, tmp_path / "s", tokens=1, tokenizer=tokenizer)
    counts = manifest["counts"]
    assert counts["answers"] == 1000 and 0 < counts["contaminated"] < 50
    assert manifest["documents"] > 945


def test_answers_to_another_corpus_are_refused(corpus, long_corpus, tokenizer, tmp_path):
    opener = Opener(lambda prompt, seed: (f"Text {seed} of many.", "stop"))
    made(opener, corpus, tokenizer, tmp_path / "s", tokens=1)
    with pytest.raises(UserError, match="no document 'd4'"):
        filtered(EXPERIMENT, long_corpus, tmp_path / "s" / "answers", tmp_path / "other", tokenizer)


def test_samples_are_added_until_there_are_enough_tokens_and_none_is_drawn_twice(
    corpus, tokenizer, tmp_path
):
    opener = Opener(lambda prompt, seed: (f"Text number {seed} of many.", "stop"))
    few = made(opener, corpus, tokenizer, tmp_path / "s", tokens=10)
    assert few["documents"] == opener.engine.asked == len(TEXTS)
    first = {document.text for document in kept(tmp_path / "s")}
    many = made(opener, corpus, tokenizer, tmp_path / "s", tokens=5 * few["tokens"])
    assert many["tokens"] >= 5 * few["tokens"]
    assert opener.engine.asked == many["documents"]
    assert first < {document.text for document in kept(tmp_path / "s")}
    assert made(opener, corpus, tokenizer, tmp_path / "s", tokens=5 * few["tokens"]) == many
    assert opener.engine.asked == many["documents"]


def test_a_synthesizer_that_only_repeats_itself_is_not_asked_for_ever(corpus, tokenizer, tmp_path):
    numbers = {text: number for number, text in enumerate(TEXTS)}
    opener = Opener(lambda p, _: (f"Always this of number {numbers[p[:-1]]} here.", "stop"))
    once = made(opener, corpus, tokenizer, tmp_path / "s", tokens=1)
    with pytest.raises(UserError, match="3 samples of each document leave no more tokens"):
        made(opener, corpus, tokenizer, tmp_path / "s", tokens=2 * once["tokens"])
    assert opener.engine.asked == 3 * len(TEXTS)


def test_the_control_without_d1_is_asked_for_texts_from_their_beginning(
    corpus, tokenizer, tmp_path
):
    prompts = []

    def answer(prompt, seed):
        prompts.append(prompt)
        return f"Free text {seed}.", "stop"

    made(Opener(answer), corpus, tokenizer, tmp_path / "s", tokens=20, conditional=False)
    assert set(prompts) == {""} and len(prompts) == len(TEXTS)


def test_where_nothing_stays_the_filters_are_named(corpus, tokenizer, tmp_path):
    opener = Opener(lambda prompt, seed: (prompt.removesuffix("\n"), "stop"))
    with pytest.raises(UserError, match=f"in_the_corpus {len(TEXTS)}"):
        made(opener, corpus, tokenizer, tmp_path / "s")


def test_other_answers_make_another_corpus(corpus, tokenizer, tmp_path):
    one = made(Opener(lambda p, s: (f"One {s} here.", "stop")), corpus, tokenizer, tmp_path / "s")
    other = Opener(lambda p, s: (f"Two {s} there.", "stop"))
    other.engine.fingerprint = "another model"
    two = made(other, corpus, tokenizer, tmp_path / "s")
    assert one["sha256"] != two["sha256"]
    assert all(document.text.startswith("Two") for document in kept(tmp_path / "s"))


def test_a_changed_prompt_asks_anew(corpus, tokenizer, tmp_path):
    opener = Opener(lambda prompt, seed: (f"After {prompt[-9:]!r} comes {seed}.", "stop"))
    made(opener, corpus, tokenizer, tmp_path / "s", tokens=20)
    changed = dataclasses.replace(EXPERIMENT.synthesis, prompt="{text}\nAgain:")
    experiment = dataclasses.replace(EXPERIMENT, synthesis=changed)
    synthesize(experiment, corpus, opener, tmp_path / "s", tokens=20, tokenizer=tokenizer)
    assert opener.engine.asked == 2 * len(TEXTS)
