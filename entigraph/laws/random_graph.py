"""The random-graph model of EntiGraph, simulated: who knows which relation after t synthetic texts.

Entities are vertices, relations of the source directed edges. A text about the ordered pair (x, y)
walks a shortest path x, z1, ..., zk, y of the *source* and teaches (x, z1), ..., (x, zk), (x, y).
The source never changes, so the paths do not: with one shortest path fixed for each pair, those
from x form a tree, and a text about (x, y) teaches y and its ancestors in it. So nothing is
simulated step by step. A relation is known from the earliest text about any of its descendants,
and that is a minimum over a subtree, for all sources at once. The same trees give the expectation
without a draw: k descendants (itself among them) are k chances in V(V-1) at each text.

Arrays are [target, source], so that following an edge for all sources copies contiguous rows.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FAR = 32_000  # distance where there is no path; FAR + 1 is an int16 still
NEVER = np.iinfo(np.int32).max
CHUNK = 1 << 18  # texts drawn at once


class Paths(NamedTuple):
    """One shortest path from every source to every target."""

    distance: jax.Array  # [target, source], int16
    parent: jax.Array  # [target, source], int16: the path's last vertex before its target
    after: jax.Array  # [k, vertex]: the k-th vertex that an edge leads to; V where there is none


@dataclass(frozen=True)
class Run:
    """One source graph, its texts, and what they teach; curves are shares of all ordered pairs."""

    density: float  # of the source's relations
    reachable: float
    depth: int  # the longest of the shortest paths
    chances: np.ndarray  # [k]: how many unknown, learnable relations have k descendants
    known: np.ndarray  # [time]: after that many texts
    pairs: int

    def expected(self, times: np.ndarray) -> np.ndarray:
        """The mean of `known` over all draws of texts on this graph: exact, at any size."""
        return self.density + mixture(self.chances / self.pairs, self.pairs, times)

    @property
    def mean_chances(self) -> float:
        return float(self.chances @ np.arange(len(self.chances)) / max(1, self.chances.sum()))


def simulate(vertices: int, p: float, times: np.ndarray, seed: int, index: int) -> Run:
    """The `index`-th graph of a seed and its texts, at these (ascending) numbers of texts."""
    adjacency = source_graph(vertices, p, key(seed, "source", index))
    return simulate_on(adjacency, times, seed, index)


def simulate_on(adjacency: np.ndarray, times: np.ndarray, seed: int, index: int) -> Run:
    """On a graph that is given, as [from, to]."""
    vertices = len(adjacency)
    paths = shortest_paths(adjacency, ties=np.random.default_rng([seed, index, _crc("ties")]))
    drawn = first_texts(vertices, int(times[-1]), key(seed, "texts", index))
    since = np.asarray(first_known(paths, drawn))
    sizes = np.asarray(descendants(paths))
    distance = np.asarray(paths.distance)
    learnable = (distance > 1) & (distance < FAR)
    pairs = vertices * (vertices - 1)
    edges = int(adjacency.sum())
    learnt = np.bincount(np.searchsorted(times, since[learnable]), minlength=len(times))
    return Run(
        density=edges / pairs,
        reachable=(edges + int(learnable.sum())) / pairs,
        depth=int(distance[distance < FAR].max()),
        chances=np.bincount(sizes[learnable], minlength=2),
        known=(edges + np.cumsum(learnt[: len(times)])) / pairs,
        pairs=pairs,
    )


def mixture(weights: np.ndarray, pairs: int, times: np.ndarray) -> np.ndarray:
    """sum over k of weights[k] (1 - (1 - k/pairs)^t)"""
    some = np.flatnonzero(weights)
    decay = np.log1p(-np.minimum(some / pairs, 1 - 1e-12))
    return -np.expm1(np.multiply.outer(times, decay)) @ weights[some]


def key(seed: int, name: str, index: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _crc(name)), index)


def _crc(name: str) -> int:
    return zlib.crc32(name.encode())


def source_graph(vertices: int, p: float, key: jax.Array) -> np.ndarray:
    """Each ordered pair of different entities is related with probability p."""
    related = np.array(jax.random.bernoulli(key, p, (vertices, vertices)))
    np.fill_diagonal(related, False)
    return related


def shortest_paths(adjacency: np.ndarray, ties: np.random.Generator) -> Paths:
    """Where several are shortest, one is picked, each as likely as the others."""
    origin, target = np.nonzero(adjacency)
    mixed = ties.permutation(len(origin))
    before = _lists(target[mixed], origin[mixed], len(adjacency))
    distance = _distances(before)
    return Paths(distance, _parents(before, distance), _lists(origin, target, len(adjacency)))


def _lists(of: np.ndarray, members: np.ndarray, vertices: int) -> jax.Array:
    """[k, vertex]: the members of each vertex's list, in the order given. As long as a power of
    two, so that few graphs need a compilation of their own.
    """
    order = np.argsort(of, kind="stable")
    of, members = of[order], members[order]
    place = np.arange(len(of)) - np.searchsorted(of, of)
    longest = int(place.max()) + 1 if len(place) else 1
    lists = np.full((max(16, 1 << (longest - 1).bit_length()), vertices), vertices, np.int32)
    lists[place, of] = members
    return jnp.asarray(lists)


def _settled(step: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    """Applies `step` until it changes nothing; as often as the longest path is long."""

    def advance(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        new = step(state[0])
        return new, jnp.any(new != state[0])

    return jax.lax.while_loop(lambda s: s[1], advance, (start, jnp.bool_(True)))[0]


def _with_nobody(rows: jax.Array, value: int) -> jax.Array:
    """A row more, for the places in lists where there is no vertex."""
    return jnp.concatenate([rows, jnp.full((1, rows.shape[1]), value, rows.dtype)])


@jax.jit
def _distances(before: jax.Array) -> jax.Array:
    vertices = before.shape[1]
    start = jnp.where(jnp.eye(vertices, dtype=bool), 0, FAR).astype(jnp.int16)

    def nearer(distance: jax.Array) -> jax.Array:
        there = _with_nobody(distance, FAR)
        nearest = jax.lax.fori_loop(
            0, len(before), lambda k, d: jnp.minimum(d, there[before[k]]), jnp.full_like(start, FAR)
        )
        return jnp.minimum(distance, nearest + jnp.int16(1))

    return _settled(nearer, start)


@jax.jit
def _parents(before: jax.Array, distance: jax.Array) -> jax.Array:
    there = _with_nobody(distance, FAR)

    def choose(k: jax.Array, parent: jax.Array) -> jax.Array:
        fits = (there[before[k]] + 1 == distance) & (parent < 0)
        return jnp.where(fits, before[k][:, None], parent).astype(jnp.int16)

    return jax.lax.fori_loop(0, len(before), choose, jnp.full_like(distance, -1))


def _children(
    paths: Paths, values: jax.Array, nobody: int, fold: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """Folds the values of each vertex's children, in every source's tree."""
    vertices = len(values)
    there, parent = _with_nobody(values, nobody), _with_nobody(paths.parent, -1)
    own = jnp.arange(vertices)[:, None]

    def add(k: jax.Array, folded: jax.Array) -> jax.Array:
        children = paths.after[k]
        return fold(folded, jnp.where(parent[children] == own, there[children], nobody))

    return jax.lax.fori_loop(0, len(paths.after), add, jnp.full_like(values, nobody))


@jax.jit
def first_known(paths: Paths, drawn: jax.Array) -> jax.Array:
    """[target, source]: the first text from which (source, target) is known, if all must be learnt;
    `drawn` is the first text about each. Where there is no path, NEVER.
    """
    reached = jnp.where(paths.distance < FAR, drawn, NEVER)
    return _settled(
        lambda t: jnp.minimum(t, _children(paths, t, NEVER, jnp.minimum)),
        reached,
    )


@jax.jit
def descendants(paths: Paths) -> jax.Array:
    """[target, source]: the pairs whose texts teach (source, target), it among them."""
    itself = (paths.distance < FAR).astype(jnp.int32)
    return _settled(lambda size: itself + _children(paths, size, 0, jnp.add), itself)


def texts(vertices: int, chunk: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sources and targets of the `chunk`-th CHUNK of texts: ordered pairs, uniformly."""
    pair = jax.random.randint(
        jax.random.fold_in(key, chunk), (CHUNK,), 0, vertices * (vertices - 1)
    )
    source, other = pair // (vertices - 1), pair % (vertices - 1)
    return source, other + (other >= source)


@partial(jax.jit, static_argnums=0)
def first_texts(vertices: int, steps: jax.Array, key: jax.Array) -> jax.Array:
    """[target, source]: the first of texts 1 to `steps` that is about the pair, or NEVER."""

    def draw(chunk: jax.Array, first: jax.Array) -> jax.Array:
        source, target = texts(vertices, chunk, key)
        number = chunk * CHUNK + 1 + jnp.arange(CHUNK)
        return first.at[target, source].min(jnp.where(number <= steps, number, NEVER))

    start = jnp.full((vertices, vertices), NEVER, jnp.int32)
    return jax.lax.fori_loop(0, (steps + CHUNK - 1) // CHUNK, draw, start)
