"""Neighbours are what sorting all scores gives, whatever computes them."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbp_jax.errors import UserError
from sbp_jax.pairing import blocks, ring
from sbp_jax.pairing.neighbors import nearest_neighbors


def oracle(vectors, k):
    """All scores, sorted by (score, id)."""
    wide = vectors.astype(np.float64)
    scores = (wide @ wide.T).astype(np.float32)
    np.fill_diagonal(scores, -np.inf)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, : min(k, len(vectors) - 1)]
    return np.take_along_axis(scores, ids, axis=1), ids


def clustered(n, d, seed=0):
    random = np.random.default_rng(seed)
    centers = random.normal(size=(max(n // 10, 1), d))
    vectors = centers[random.integers(len(centers), size=n)] + random.normal(size=(n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 64)


@given(
    n=st.integers(2, 300),
    d=st.integers(2, 40),
    k=st.integers(1, 20),
    copies=st.integers(0, 40),
    integers=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=40)
def test_they_are_those_of_all_scores_sorted(n, d, k, copies, integers, seed):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(n, d)).astype(np.float32) * random.uniform(0.1, 3)
    if integers:  # whose scores tie
        vectors = np.round(vectors)
    where = random.integers(n, size=(2, copies))
    vectors[where[0]] = vectors[where[1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", 64)
        scores, ids = nearest_neighbors(vectors, min(k, n - 1))
    expected_scores, expected = oracle(vectors, k)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_a_ring_of_devices_gives_the_same_bits(devices):
    vectors = clustered(1500, 24)
    vectors[700:720] = vectors[3]
    vectors[800:850] = vectors[4] + np.float32(1e-7) * np.arange(50)[:, None]  # no float32 settles
    here = nearest_neighbors(vectors, 10)
    for ours, expected in zip(here, oracle(vectors, 10), strict=True):
        np.testing.assert_array_equal(ours, expected)
    there = nearest_neighbors(vectors, 10, jax.devices()[:devices])
    for ours, expected in zip(there, here, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_they_are_faiss_ones(small_blocks):
    faiss = pytest.importorskip("faiss")
    vectors = clustered(1000, 64)
    index = faiss.IndexFlatIP(64)
    index.add(vectors)
    scores, ids = index.search(vectors, 11)
    np.testing.assert_array_equal(ids[:, 0], np.arange(1000))
    ours, our_ids = nearest_neighbors(vectors, 10)
    np.testing.assert_array_equal(our_ids, ids[:, 1:])
    np.testing.assert_allclose(ours, scores[:, 1:], atol=1e-6)


def test_blocks_do_not_change_a_bit(monkeypatch):
    vectors = clustered(700, 32)
    whole = nearest_neighbors(vectors, 7)
    for size in (16, 48, 256):
        monkeypatch.setattr(blocks, "BLOCK", size)
        for ours, expected in zip(nearest_neighbors(vectors, 7), whole, strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_of_all_that_there_are_every_other_comes(small_blocks):
    vectors = clustered(5, 8)
    scores, ids = nearest_neighbors(vectors, 4)
    assert scores.shape == (5, 4) and scores.dtype == np.float32 and ids.dtype == np.int64
    assert [sorted({*row, i}) for i, row in enumerate(ids.tolist())] == [list(range(5))] * 5


@pytest.mark.parametrize("devices", [None, 2])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_any_floating_type_and_any_layout_will_do(small_blocks, dtype, devices):
    """The scores are those of the numbers as they are given."""
    wide = np.zeros((300, 48))
    wide[:, ::2] = clustered(300, 24).astype(np.float64) + 1e-9 * np.arange(24)
    vectors = np.asfortranarray(wide.astype(jax.numpy.dtype(dtype)))[::-1, ::2]
    vectors[40:60] = vectors[7]
    assert not vectors.flags.c_contiguous
    found = nearest_neighbors(vectors, 6, devices and jax.devices()[:devices])
    for ours, expected in zip(found, oracle(vectors, 6), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_jax_arrays_and_lists_are_vectors_too():
    vectors = clustered(40, 8)
    for same in (jax.numpy.asarray(vectors), vectors.tolist()):
        for ours, expected in zip(nearest_neighbors(same, 3), oracle(vectors, 3), strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_zero_vectors_and_copies_come_by_number(small_blocks):
    _, ids = nearest_neighbors(np.zeros((300, 4), np.float32), 3)
    assert ids[0].tolist() == [1, 2, 3] and ids[2].tolist() == [0, 1, 3]
    assert ids[299].tolist() == [0, 1, 2]
    vectors = np.eye(200, dtype=np.float32)  # everything ties with everything
    vectors[7] = 0
    scores, ids = nearest_neighbors(vectors, 2)
    assert ids[7].tolist() == [0, 1] and ids[0].tolist() == [1, 2] and not scores.any()


def test_the_tpus_kernel_gives_what_xla_gives():
    random = np.random.default_rng(0)
    queries = random.normal(size=(64, 128)).astype(np.float32)
    columns = random.normal(size=(3 * ring.BINS, 128)).astype(np.float32)
    row_ids, first = np.arange(100, 164, dtype=np.int32)[:, None], np.int32(96)
    n = 96 + 3 * ring.BINS - 10
    expected = ring._bins(queries, row_ids, columns, first, n)
    ours = ring._bins_on_tpu(queries, row_ids, columns, jax.numpy.int32(96), n, interpret=True)
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_what_cannot_be_is_refused_by_its_row():
    vectors = clustered(50, 8)
    vectors[[17, 30], 2] = np.nan, np.inf
    with pytest.raises(UserError, match=r"vector 17 is not finite.*\(2 of 50"):
        nearest_neighbors(vectors, 3)
    for vectors, k, line in (
        (clustered(5, 8), 0, "k is 0; it has to be a whole number"),
        (clustered(5, 8), 2.5, "k is 2.5; it has to be a whole number"),
        (clustered(5, 8), 5, "k is 5, but each of 5 vectors has 4 others"),
        (clustered(5, 8)[:1], 1, "k is 1, but each of 1 vectors has 0 others"),
        (np.zeros(8, np.float32), 1, r"shape \(8,\); neighbours need \[rows, dimensions\]"),
        (np.zeros((0, 8), np.float32), 1, r"shape \(0, 8\)"),
        (np.zeros((8, 0), np.float32), 1, r"shape \(8, 0\)"),
        (np.zeros((8, 2), np.int32), 1, "type int32; neighbours need floating-point"),
        (np.zeros((8, 2), np.complex64), 1, "type complex64"),
        (np.array([["a"]] * 8), 1, "type <U1"),
        (np.full((8, 2), 1e30, np.float32), 1, "its length in float32"),
    ):
        with pytest.raises(UserError, match=line):
            nearest_neighbors(vectors, k)


@pytest.mark.slow
def test_the_bench_has_both_times_and_the_same_neighbours():
    pytest.importorskip("faiss")
    done = subprocess.run(
        [sys.executable, "bench/neighbors.py", "--rows=3000", "--dimensions=32", "--repeats=1"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    times, _, same = done.stdout.splitlines()
    assert times.startswith("3,000 x 32, k=10: ours ") and "recall 1.000000" in same
