"""Overlaps and duplicates, against all pairs compared one by one."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbp_jax.config import Experiment, ToyWorldConfig
from sbp_jax.data.corpus import Corpus, Document, open_corpus, read_documents
from sbp_jax.pairing.overlap import overlap, shingles
from sbp_jax.synthesis import near

TEXTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=12).map(" ".join), max_size=12)


class Shard:
    def __init__(self, name, texts):
        self.name, self.texts = name, texts

    def read(self, on_bad_row):
        for i, text in enumerate(self.texts):
            yield Document(f"{self.name}:{i}", text)


def corpus(*shards):
    return Corpus("memory", [Shard(f"s{i}", s) for i, s in enumerate(shards)], repr(shards))


def jaccard(a, b):
    both = len(np.intersect1d(a, b))
    return both / max(1, len(a) + len(b) - both)


@given(TEXTS, TEXTS, TEXTS, st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]), st.integers(1, 3))
def test_the_largest_overlap_is_that_of_all_pairs(
    tmp_path_factory, texts, some, others, at_least, n
):
    found = near.largest_overlaps(
        near.sets_of(texts, n),
        corpus(some, others),
        n,
        tmp_path_factory.mktemp("work"),
        at_least=at_least,
    )
    real = shingles([*some, *others], n)
    best = [max((overlap(d, r) for r in real), default=0.0) for d in shingles(texts, n)]
    expected = [share if np.float32(share) >= np.float32(at_least) else 0.0 for share in best]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


@given(TEXTS, TEXTS, st.integers(1, 40))
def test_neither_blocks_nor_chunks_change_an_overlap(tmp_path_factory, texts, real, size):
    sets = near.sets_of(texts, 2)
    whole = near.largest_overlaps(sets, corpus(real), 2, tmp_path_factory.mktemp("work"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(near, "BLOCK", size)
        patched.setattr(near, "CHUNK", size)
        patched.setattr(near, "TOGETHER", 3)
        cut = near.largest_overlaps(sets, corpus(real), 2, tmp_path_factory.mktemp("work"))
    np.testing.assert_array_equal(whole, cut)


@given(TEXTS, st.sampled_from([0.3, 0.5, 0.7]), st.integers(1, 40))
def test_what_is_a_repeat_is_like_a_text_before_it_that_stays(texts, above, size):
    sets, real = near.sets_of(texts, 1), shingles(texts, 1)
    gone = near.repeats(sets, above)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(near, "CHUNK", size)
        np.testing.assert_array_equal(near.repeats(sets, above), gone)
    for i in np.flatnonzero(gone):
        assert any(jaccard(real[i], real[j]) > above for j in range(i) if not gone[j])
    forms = [" ".join(sorted(set(text.split()))) for text in texts]
    for i, form in enumerate(forms):
        if form and form in forms[:i]:
            assert gone[i]


def test_nearly_all_near_duplicates_are_found():
    draw = random.Random(0)
    texts = []
    for number in range(400):
        words = [f"w{draw.randrange(3000)}" for _ in range(80)]
        texts += [" ".join(words), " ".join([*words[:74], *(f"n{number}" for _ in range(6))])]
    sets = near.sets_of(texts, 5)
    like = [jaccard(*shingles(texts[i : i + 2], 5)) for i in range(0, len(texts), 2)]
    assert 0.8 < min(like) < 0.9
    gone = near.repeats(sets, 0.7)
    assert not gone[::2].any() and gone[1::2].mean() > 0.99
    assert not near.repeats(sets, 0.9).any()


def test_a_spool_holds_what_memory_would(tmp_path):
    experiment = Experiment(toyworld=ToyWorldConfig(held_out_documents=50))
    documents = read_documents(open_corpus("toyworld:held_out", experiment), "stop")
    texts = [document.text for document in documents]
    spool, plain = near.Spool(tmp_path), near.sets_of(texts, 5)
    spool.add(shingles(texts[:20], 5))
    spool.add(shingles(texts[20:], 5))
    np.testing.assert_array_equal(spool.sets().flat(), plain.flat())
    some = np.array([7, 3, 3, 49])
    for number, hashes in zip(some, [plain.take(slice(i, i + 1)) for i in some], strict=True):
        np.testing.assert_array_equal(hashes.flat(), shingles(texts, 5)[number])
    np.testing.assert_array_equal(
        spool.sets().take(some).flat(), np.concatenate([shingles(texts, 5)[i] for i in some])
    )
    assert not len(near.Spool(tmp_path / "none").sets())


def test_shards_in_processes_give_what_one_gives(tmp_path):
    experiment = Experiment(toyworld=ToyWorldConfig(documents=12_000, fresh_documents=50))
    fresh = read_documents(open_corpus("toyworld:fresh", experiment), "stop")
    sets = near.sets_of([document.text for document in fresh], 5)
    real = open_corpus("toyworld", experiment)
    assert len(real.shards) == 2
    one = near.largest_overlaps(sets, real, 5, tmp_path / "one", at_least=0.3)
    two = near.largest_overlaps(sets, real, 5, tmp_path / "two", at_least=0.3, workers=2)
    np.testing.assert_array_equal(one, two)
    again = near.largest_overlaps(sets, corpus([], []), 5, tmp_path / "two", at_least=0.3)
    np.testing.assert_array_equal(again, two)  # what is there is not done again
