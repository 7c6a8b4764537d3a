"""The neighbours of all vectors on a CPU: the product of two blocks serves the rows of both.

Nothing is sorted but what survives: a score counts only if it reaches the k-th best so far of its
row, or of its column, and soon one in a thousand does. XLA multiplies, and marks groups of scores
with a survivor in the same program; NumPy gathers from the marked ones while XLA is at the next.
"""

import logging
import time
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np

from sbp_jax.pairing import exact
from sbp_jax.processes import REPORT_S

BLOCK = 2048  # rows; the product of two is 16 MB
GROUP = 16  # scores that share a mark
MANY = 16  # survivors for each neighbour that is wanted, from which a row block is cut to these
log = logging.getLogger(__name__)


def search(vectors: np.ndarray, norms: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and ids [n, k] of n > k vectors that differ."""
    n, d = vectors.shape
    size = min(BLOCK, -(-n // GROUP) * GROUP)
    # A float32 product of d terms is off by d units of its last place, at most, and by two more if
    # its numbers were wider; what is found and what it is compared with both are.
    slack = 2 * (d + 2) * 2.0**-24 * norms * norms.max()
    rows = [
        _Rows(vectors, start, slack[start : start + size], k, size) for start in range(0, n, size)
    ]
    for one in rows:
        one.begin()
    under_way: deque = deque()
    report = _Report(len(rows) * (len(rows) + 1) // 2)
    for i, ours in enumerate(rows):
        block = ours.block()
        for theirs in rows[i:]:
            report.one()
            products = _multiply(block, theirs.block(), ours.least, theirs.least)
            under_way.append((ours, theirs, products))
            if len(under_way) > 1:
                _gather(*under_way.popleft())
    while under_way:
        _gather(*under_way.popleft())
    found = [one.finish() for one in rows]
    scores, ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return scores, ids


class _Report:
    """How far it is, every few seconds."""

    def __init__(self, total: int):
        self.total, self.begun = total, 0
        self.start = self.last = time.monotonic()

    def one(self) -> None:
        now = time.monotonic()
        if self.begun and now - self.last > REPORT_S:
            self.last = now
            left = (now - self.start) / self.begun * (self.total - self.begun)
            done = 100 * self.begun / self.total
            log.info("neighbors: %.1f%% of the search, about %.0f s left", done, left)
        self.begun += 1


class _Rows:
    """A block of rows, and their candidates so far."""

    def __init__(self, vectors, start: int, slack: np.ndarray, k: int, size: int):
        self.vectors, self.start, self.slack, self.k, self.size = vectors, start, slack, k, size
        self.least = np.full(size, np.inf, np.float32)  # what a score has to reach; of no row, inf
        self._found: list[tuple[np.ndarray, ...]] = []
        self._new = 0

    def block(self) -> jax.Array:
        """Filled up with zeros, so that all have one shape."""
        rows = np.asarray(self.vectors[self.start : self.start + len(self.slack)], np.float32)
        if len(rows) < self.size:
            rows = np.concatenate([rows, np.zeros((self.size - len(rows), rows.shape[1]), "f4")])
        return jnp.asarray(rows)

    def begin(self) -> None:
        """The k-th best of each row among its own block, so that few scores of others count."""
        count, block = len(self.slack), self.block()
        self.least[:count] = -np.inf
        if count > self.k:
            scores = np.array(_product(block, block))[:count, :count]
            np.fill_diagonal(scores, -np.inf)
            kth = np.partition(scores, count - self.k, axis=1)[:, count - self.k]
            self.least[:count] = kth - self.slack

    def add(self, row: np.ndarray, id: np.ndarray, score: np.ndarray) -> None:
        self._found.append((row, id, score))
        self._new += len(row)
        if self._new > 2 * self.k * self.size:
            self._cut()

    def _cut(self) -> None:
        row, id, score = (np.concatenate(parts) for parts in zip(*self._found, strict=True))
        order = np.lexsort((-score, row))
        row, id, score = row[order], id[order], score[order]
        kth = exact.ranks(row) == self.k - 1
        self.least[row[kth]] = np.maximum(self.least[row[kth]], score[kth] - self.slack[row[kth]])
        kept = score >= self.least[row]
        row, id, score = row[kept], id[kept], score[kept]
        if len(row) > MANY * self.k * self.size:  # so many all but tie
            row, id, score = self._best(row, id)
        self._found, self._new = [(row, id, score)], 0

    def _best(self, row, id):
        row, id, score = exact.best(self.vectors, row + self.start, id, self.k)
        return row - self.start, id, score

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        self._cut()
        _, id, score = self._best(*self._found[0][:2])
        return score.reshape(-1, self.k), id.reshape(-1, self.k)


@jax.jit
def _product(a, b):
    return a @ b.T


@jax.jit
def _multiply(a, b, least_a, least_b):
    """The scores [A, GROUP, B / GROUP] and where in the second axis is one that counts."""
    scores = _product(a, b).reshape(len(a), GROUP, -1)
    least = jnp.minimum(least_a[:, None, None], least_b.reshape(GROUP, -1))
    return scores, (scores >= least).any(axis=1)


def _gather(ours: _Rows, theirs: _Rows, products) -> None:
    scores, marked = (np.asarray(x) for x in products)
    row, group = np.nonzero(marked)
    score = scores[row, :, group]  # [marked, GROUP]
    column = group[:, None] + np.arange(GROUP) * marked.shape[1]
    real = (column < len(theirs.slack)) & (row < len(ours.slack))[:, None]
    if ours is theirs:
        real &= column != row[:, None]
    at, place = np.nonzero(real & (score >= ours.least[row][:, None]))
    ours.add(row[at], column[at, place] + theirs.start, score[at, place])
    if ours is not theirs:
        at, place = np.nonzero(real & (score >= theirs.least[column]))
        theirs.add(column[at, place], row[at] + ours.start, score[at, place])
