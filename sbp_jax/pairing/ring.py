"""The neighbours of all vectors on the devices of a mesh: each keeps its rows, and the columns go
around in a ring.

A device keeps a few candidates more than are wanted, and for each row the best score among all
that it let go. That is a certificate: if a row's last neighbour, computed exactly, beats it by more
than rounding can be off, nothing was missed. bfloat16 settles most rows; those that it does not are
searched again in float32, and the last few (copies but for their last bits) on the host.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sbp_jax.pairing import exact

AXIS = "ring"
BINS = 512  # columns of a tile; a bin has one column of each tile
ROWS = 512  # of a tile
MOST_TILES = 128  # whose best are taken together
SPARE = 16  # candidates beyond those that are wanted


def search(
    vectors: np.ndarray, norms: np.ndarray, k: int, devices: Sequence[jax.Device]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and ids [n, k] of n > k vectors that differ."""
    mesh = Mesh(np.array(devices), (AXIS,))
    precisions = ["float32"] if devices[0].platform == "cpu" else ["bfloat16", "float32"]
    scores, ids = np.zeros((len(vectors), k), np.float32), np.zeros((len(vectors), k), np.int64)
    open_rows = np.arange(len(vectors))
    for precision in precisions:
        if not len(open_rows):
            break
        candidates, missed = _candidates(vectors, open_rows, k, mesh, precision)
        row, place = np.nonzero(candidates >= 0)
        row, id, score = exact.best(vectors, open_rows[row], candidates[row, place], k)
        scores[row, exact.ranks(row)], ids[row, exact.ranks(row)] = score, id
        off = _rounding(vectors, norms, open_rows, precision)
        open_rows = open_rows[scores[open_rows, k - 1] <= missed + off]
    for number in open_rows.tolist():
        ids[number], scores[number] = _on_host(vectors, norms, number, k)
    return scores, ids


def _candidates(vectors, rows, k, mesh, precision):
    """Ids [rows, k + SPARE], -1 where there is none, and the best score that was let go."""
    n, d = vectors.shape
    queries, columns, width = _sizes(mesh, len(rows), n, d)
    split = NamedSharding(mesh, PartitionSpec(AXIS))
    dtype = ml_dtypes.bfloat16 if precision == "bfloat16" else np.float32

    def place(which, total):
        which = np.concatenate([which, np.full(total - len(which), -1)])

        def part(index):
            """Those rows of the vectors, filled up with zeros."""
            here = which[index[0]]
            filled = np.zeros((len(here), width), dtype)
            filled[here >= 0, :d] = vectors[here[here >= 0]]
            return filled

        return which, jax.make_array_from_callback((total, width), split, part)

    row_ids, query_rows = place(rows, queries)
    _, database = place(np.arange(n), columns)
    row_ids = jax.device_put(row_ids.astype(np.int32)[:, None], split)
    ids, missed = _compiled(mesh, n, k + SPARE)(query_rows, row_ids, database)
    return np.asarray(ids)[: len(rows)], np.asarray(missed)[: len(rows)]


def trace(mesh: Mesh, rows: int, n: int, d: int, k: int, dtype) -> jax.stages.Traced:
    """The program for so many rows against n vectors, without any of them."""
    queries, columns, width = _sizes(mesh, rows, n, d)
    split = NamedSharding(mesh, PartitionSpec(AXIS))
    shapes = ((queries, width), dtype), ((queries, 1), jnp.int32), ((columns, width), dtype)
    inputs = [jax.ShapeDtypeStruct(*shape, sharding=split) for shape in shapes]
    return _compiled(mesh, n, k + SPARE).trace(*inputs)


def _sizes(mesh: Mesh, rows: int, n: int, d: int) -> tuple[int, int, int]:
    """Rows of the queries, rows and columns of the database, with what fills them up."""
    columns = _round_up(n, mesh.size * _tiles(n) * BINS)
    return _round_up(rows, mesh.size * ROWS), columns, _round_up(d, 128)


def _tiles(n: int) -> int:
    """The more, the fewer sorts; but two neighbours are in one bin once in so many rows."""
    return min(1 << max((n >> 18).bit_length() - 1, 0), MOST_TILES)


@functools.lru_cache(maxsize=8)
def _compiled(mesh: Mesh, n: int, kept: int):
    """The program for n vectors; it takes queries, their ids and the database."""
    spec = PartitionSpec(AXIS)
    program = functools.partial(_around, n=n, kept=kept, tiles=_tiles(n), devices=mesh.size)
    if mesh.devices.flat[0].platform == "tpu":
        program = functools.partial(program, bins=_bins_on_tpu)
    sharded = jax.shard_map(
        program, mesh=mesh, in_specs=(spec, spec, spec), out_specs=(spec, spec), check_vma=False
    )
    return jax.jit(sharded)


def _bins(queries, row_ids, columns, first, n: int):
    """Of the scores [rows, columns]: in each of BINS bins the best, its id, and the second best."""
    scores = jnp.einsum(
        "rd,cd->rc", queries, columns, precision="highest", preferred_element_type=jnp.float32
    )
    ids = first + jnp.arange(columns.shape[0], dtype=jnp.int32)
    scores = jnp.where((ids == row_ids) | (ids >= n), -jnp.inf, scores)
    scores = scores.reshape(len(queries), -1, BINS)
    which = jnp.argmax(scores, axis=1)
    others = jnp.arange(scores.shape[1])[:, None] != which[:, None]
    id = ids[0] + which.astype(jnp.int32) * BINS + jnp.arange(BINS, dtype=jnp.int32)
    return scores.max(axis=1), id, jnp.where(others, scores, -jnp.inf).max(axis=1)


def _around(queries, row_ids, database, n: int, kept: int, tiles: int, devices: int, bins=_bins):
    index = jax.lax.axis_index(AXIS)
    local, chunk = database.shape[0], tiles * BINS

    def one_chunk(rows, number, owner, columns, found):
        best, ids, missed = found
        some = jax.lax.dynamic_slice_in_dim(columns, number * chunk, chunk)
        first = (owner * local + number * chunk).astype(jnp.int32)
        score, id, second = bins(*rows, some, first, n)
        together = jnp.concatenate([best, score], axis=1)
        # One more than is kept: the first that is not.
        best, at = jax.lax.top_k(together, kept + 1)
        ids = jnp.take_along_axis(jnp.concatenate([ids, id], axis=1), at[:, :kept], axis=1)
        missed = jnp.maximum(missed, jnp.maximum(best[:, kept], second.max(axis=1)))
        return best[:, :kept], ids, missed

    def with_columns(step, state):
        columns, found = state
        owner = (index + step) % devices

        def row_tile(inputs):
            rows, found = inputs
            turn = lambda number, found: one_chunk(rows, number, owner, columns, found)  # noqa: E731
            return jax.lax.fori_loop(0, local // chunk, turn, found)

        found = jax.lax.map(row_tile, (_tiled((queries, row_ids)), found))
        around = [((i + 1) % devices, i) for i in range(devices)]
        return jax.lax.ppermute(columns, AXIS, around), found

    rows = len(queries)
    nothing = (
        jnp.full((rows, kept), -jnp.inf),
        jnp.full((rows, kept), -1, jnp.int32),
        jnp.full(rows, -jnp.inf),
    )
    _, found = jax.lax.fori_loop(0, devices, with_columns, (database, _tiled(nothing)))
    best, ids, missed = jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), found)
    return jnp.where(best > -jnp.inf, ids, -1), missed


def _tiled(tree):
    return jax.tree.map(lambda x: x.reshape(-1, ROWS, *x.shape[1:]), tree)


def _bins_on_tpu(queries, row_ids, columns, first, n: int, interpret: bool = False):
    """The same without the scores ever leaving the chip's fast memory: a tile of them is folded
    into the bins as it comes.
    """
    rows, width = queries.shape

    def kernel(first, queries, row_ids, columns, best, id, second):
        tile = pl.program_id(0)

        @pl.when(tile == 0)
        def _():
            best[...] = jnp.full(best.shape, -jnp.inf, jnp.float32)
            id[...] = jnp.full(id.shape, -1, jnp.int32)
            second[...] = jnp.full(second.shape, -jnp.inf, jnp.float32)

        scores = jax.lax.dot_general(
            queries[...],
            columns[...],
            (((1,), (1,)), ((), ())),
            precision="highest" if queries.dtype == jnp.float32 else None,
            preferred_element_type=jnp.float32,
        )
        ids = first[0] + tile * BINS + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
        scores = jnp.where((ids == row_ids[...]) | (ids >= n), -jnp.inf, scores)
        before = best[...]
        second[...] = jnp.maximum(second[...], jnp.minimum(before, scores))
        id[...] = jnp.where(scores > before, ids, id[...])
        best[...] = jnp.maximum(before, scores)

    whole = lambda shape: pl.BlockSpec(shape, lambda tile, first: (0, 0))  # noqa: E731
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=(len(columns) // BINS,),
        in_specs=[
            whole((rows, width)),
            whole((rows, 1)),
            pl.BlockSpec((BINS, width), lambda tile, first: (tile, 0)),
        ],
        out_specs=[whole((rows, BINS))] * 3,
    )
    shapes = [jax.ShapeDtypeStruct((rows, BINS), t) for t in (jnp.float32, jnp.int32, jnp.float32)]
    call = pl.pallas_call(kernel, grid_spec=grid, out_shape=shapes, interpret=interpret)
    return call(first.reshape(1), queries, row_ids, columns)


def _rounding(vectors, norms, rows, precision) -> np.ndarray:
    """How far a score of each row may be off: by the sum, and by what the numbers lost."""
    off = 2 * (vectors.shape[1] + 2) * 2.0**-24 * norms[rows] * norms.max()  # as in blocks.py
    if precision == "bfloat16":
        lost = np.empty(len(vectors), np.float32)
        step = max(exact.CHUNK // vectors.shape[1], 1)
        for start in range(0, len(vectors), step):
            chunk = np.asarray(vectors[start : start + step], np.float32)
            rest = chunk - chunk.astype(ml_dtypes.bfloat16).astype(np.float32)
            lost[start : start + step] = np.sqrt(np.einsum("nd,nd->n", rest, rest))
        off += lost[rows] * (norms + lost).max() + norms[rows] * lost.max()
    return off


def _on_host(vectors, norms, row: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    score, own = np.empty(len(vectors), np.float32), np.asarray(vectors[row], np.float32)
    step = max(exact.CHUNK // vectors.shape[1], 1)
    for start in range(0, len(vectors), step):
        score[start : start + step] = np.asarray(vectors[start : start + step], np.float32) @ own
    score[row] = -np.inf
    off = 2 * (vectors.shape[1] + 2) * 2.0**-24 * norms[row] * norms.max()
    (near,) = np.nonzero(score >= np.partition(score, -k)[-k] - off)
    _, id, score = exact.best(vectors, np.full(len(near), row), near, k)
    return id, score


def _round_up(number: int, multiple: int) -> int:
    return math.ceil(number / multiple) * multiple
