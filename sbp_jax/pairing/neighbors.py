"""Exact nearest neighbours by inner product, of every vector among all others.

Two programs find candidates: `blocks` on CPUs, `ring` over the devices of a mesh. Both give a
superset of the k best of every row, by bounds on their rounding; `best` then computes each
candidate's score once more, in float64, rounds it to float32 and orders by (score, id). So the
result is a function of the vectors, and not of tiles, devices, or the order of a sum.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sbp_jax.errors import UserError
from sbp_jax.pairing import blocks, exact, ring

CHUNK = 1 << 24  # numbers that a step over all vectors converts at once


def nearest_neighbors(
    vectors: np.ndarray, k: int, devices: Sequence[jax.Device] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n, k] in float32 and ids [n, k], best first, of k < n. `vectors` [n, d] are of any
    floating type, and may be mapped from a file. `devices` default to blocks on a CPU, to all of an
    accelerator's.
    """
    vectors = _checked(vectors, k)
    norms, first = _norms(vectors), _first_equal(vectors)
    unique = np.unique(first)
    some = vectors if len(unique) == len(vectors) else vectors[unique]
    width = min(k, len(some) - 1)
    scores, ids = np.zeros((len(some), 0), np.float32), np.zeros((len(some), 0), np.int64)
    if width and devices is None and jax.default_backend() == "cpu":
        scores, ids = blocks.search(some, norms[unique], width)
    elif width:
        scores, ids = ring.search(some, norms[unique], width, devices or jax.devices())
    if len(unique) == len(vectors):
        return scores, ids
    return _with_copies(vectors, k, first, unique, scores, ids)


def _checked(vectors: np.ndarray, k: int) -> np.ndarray:
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or not vectors.size:
        raise UserError(
            f"vectors of shape {vectors.shape}; neighbours need [rows, dimensions], of each one or "
            "more"
        )
    if not jnp.issubdtype(vectors.dtype, jnp.floating):
        raise UserError(
            f"vectors of type {vectors.dtype}; neighbours need floating-point numbers: convert "
            "them with .astype(np.float32)"
        )
    if not isinstance(k, int | np.integer) or k < 1:
        raise UserError(f"k is {k}; it has to be a whole number, at least 1")
    if k >= len(vectors):
        raise UserError(
            f"k is {k}, but each of {len(vectors)} vectors has {len(vectors) - 1} others; lower k"
        )
    return vectors


def _norms(vectors: np.ndarray) -> np.ndarray:
    norms = np.empty(len(vectors), np.float32)
    step = max(CHUNK // vectors.shape[1], 1)
    for start in range(0, len(vectors), step):
        chunk = np.asarray(vectors[start : start + step], np.float32)
        norms[start : start + step] = np.sqrt(np.einsum("nd,nd->n", chunk, chunk))
    if (bad := np.flatnonzero(~np.isfinite(norms))).size:
        raise UserError(
            f"vector {bad[0]} is not finite, or its length in float32 is not ({bad.size} of "
            f"{len(vectors)} are so); its embedder is broken there"
        )
    return norms


def _first_equal(vectors: np.ndarray) -> np.ndarray:
    """The first row with the same bits, for each. Copies tie with all that they meet, and a corpus
    may hold thousands of one.
    """
    hashes = np.empty(len(vectors), np.uint64)
    factors = np.random.default_rng(0).integers(1 << 63, size=vectors.shape[1], dtype=np.uint64)
    step = max(CHUNK // vectors.shape[1], 1)
    for start in range(0, len(vectors), step):
        chunk = np.ascontiguousarray(vectors[start : start + step], np.float32)
        hashes[start : start + step] = chunk.view(np.uint32) @ (2 * factors + 1)
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    first = first[which]
    for row in np.flatnonzero(first != np.arange(len(first))):
        if not np.array_equal(vectors[row], vectors[first[row]]):
            first[row] = row
    return first


def _with_copies(vectors, k, first, unique, scores, ids) -> tuple[np.ndarray, np.ndarray]:
    """The neighbours of all rows, from those of the rows that are unlike. Whatever is among the k
    nearest of a row is a copy of one of its k nearest unlike ones, or its own.
    """
    n, k = len(vectors), min(k, len(vectors) - 1)
    own = np.arange(len(unique))
    some = vectors[unique].astype(np.float64)
    to_self = np.einsum("nd,nd->n", some, some).astype(np.float32)
    scores = np.concatenate([to_self[:, None], scores], axis=1)
    ids = np.concatenate([own[:, None], ids], axis=1)
    # Copies of each unlike row, by number: members[starts[u] : starts[u] + counts[u]].
    which = np.searchsorted(unique, first)
    members = np.argsort(which, kind="stable")
    counts = np.bincount(which)
    starts = np.cumsum(counts) - counts
    counts = np.minimum(counts, k + 1)
    repeats = counts[ids].ravel()
    row = np.repeat(np.repeat(own, ids.shape[1]), repeats)
    within = np.arange(len(row)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    member = members[np.repeat(starts[ids].ravel(), repeats) + within]
    score = np.repeat(scores.ravel(), repeats)
    order = np.lexsort((member, -score, row))
    order = order[exact.ranks(row[order]) <= k]  # one more, for a row is among its own
    all_ids, all_scores = (x[order].reshape(-1, k + 1)[which] for x in (member, score))
    others = all_ids != np.arange(n)[:, None]
    others[others.all(axis=1), k] = False  # too many copies before it to meet itself
    return all_scores[others].reshape(n, k), all_ids[others].reshape(n, k)
