"""Keys and values of the tokens so far, in pieces: blocks of slots, and the most recent tokens.

A step writes one recent token, at the same place for all rows, and only reads the blocks; after
`RUN` steps the recent ones move there (`settle`). So a step reads no more blocks than the longest
row fills. And a row's sums are made of pieces of fixed shapes, in a fixed order: blocks that are
empty for it add exact zeros, so that no other row, however long, changes a bit of them.

Shapes: B batch, T time, K key-value heads, h head width, S slots of a block, R recent tokens.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sbp_jax.config import ModelConfig
from sbp_jax.parallel import constrain

RUN = 16  # slots that are filled together; they begin at a multiple of it


class Piece(NamedTuple):
    """A layer's, as the matmuls want them: with keys as [S, h] a CPU takes twice as long."""

    k: jax.Array  # [B, K, h, S or R]
    v: jax.Array  # [B, K, S or R, h]


class Cache(NamedTuple):
    """A row's prompt is in its first slots; its runs begin at the next multiple of `RUN`."""

    blocks: list[list[Piece]]  # of each block, its layers'
    recent: list[Piece]  # layers'
    filled: jax.Array  # [] recent tokens that are there
    prompt: jax.Array  # [B] its slots
    end: jax.Array  # [B] of the slots of its runs


class Past(NamedTuple):
    """What a layer's tokens come after."""

    blocks: list[Piece]
    recent: Piece
    filled: jax.Array
    visible: list[jax.Array]  # of each piece, [B, S] or [B, R]; none when the tokens are the first


def empty(config: ModelConfig, batch: int, recent: int, dtype: jnp.dtype) -> Cache:
    """With room for recent tokens, and no block yet."""
    row = jnp.zeros(batch, jnp.int32)
    return Cache([], empty_block(config, batch, recent, dtype), jnp.int32(0), row, row)


def empty_block(config: ModelConfig, batch: int, slots: int, dtype: jnp.dtype) -> list[Piece]:
    k = jnp.zeros((batch, config.num_kv_heads, config.head_dim, slots), dtype)
    return [_laid(k, k.swapaxes(2, 3)) for _ in range(config.num_layers)]


def pasts(cache: Cache) -> list[Past]:
    """Each layer's. A cache without blocks is for reading prompts, others for a token at a time."""
    visible: list[jax.Array] = []
    for start, layers in zip(_starts(cache), cache.blocks, strict=True):
        slot = start + jnp.arange(layers[0].k.shape[3])
        in_prompt = slot < cache.prompt[:, None]
        in_runs = (slot >= _next_run(cache.prompt)[:, None]) & (slot < cache.end[:, None])
        visible.append(in_prompt | in_runs)
    if visible:
        recent = jnp.arange(cache.recent[0].k.shape[3]) <= cache.filled
        visible.append(jnp.broadcast_to(recent, (len(cache.end), len(recent))))
    return [
        Past([layers[i] for layers in cache.blocks], piece, cache.filled, visible)
        for i, piece in enumerate(cache.recent)
    ]


def positions_after(cache: Cache, length: int) -> jax.Array:
    """[B, length]"""
    first = cache.prompt + cache.end - _next_run(cache.prompt) + cache.filled
    return first[:, None] + jnp.arange(length)


def add(recent: Piece, k: jax.Array, v: jax.Array, filled: jax.Array) -> Piece:
    """A layer's recent tokens and some more, [B, T, K, h]."""
    k, v = k.transpose(0, 2, 3, 1).astype(recent.k.dtype), v.swapaxes(1, 2).astype(recent.v.dtype)
    return _laid(
        jax.lax.dynamic_update_slice_in_dim(recent.k, k, filled, axis=3),
        jax.lax.dynamic_update_slice_in_dim(recent.v, v, filled, axis=2),
    )


def settle(cache: Cache) -> Cache:
    """The recent tokens, `RUN` of them, in the blocks."""
    blocks = []
    for start, layers in zip(_starts(cache), cache.blocks, strict=True):
        slots = layers[0].k.shape[3]
        # A run crosses no border of a block. One that belongs elsewhere gets a place out of range,
        # where nothing is written; a negative one would count from the end.
        inside = (cache.end >= start) & (cache.end < start + slots)
        run = jnp.where(inside, cache.end - start, slots) // RUN
        blocks.append([_put_run(*pair, run) for pair in zip(layers, cache.recent, strict=True)])
    return cache._replace(blocks=blocks, filled=jnp.int32(0), end=cache.end + RUN)


def _put_run(block: Piece, recent: Piece, run: jax.Array) -> Piece:
    rows, (batch, heads, slots, width) = jnp.arange(len(run)), block.v.shape
    k = block.k.reshape(batch, heads, width, slots // RUN, RUN)
    v = block.v.reshape(batch, heads, slots // RUN, RUN, width)
    k = k.at[rows, :, :, run].set(recent.k, mode="drop").reshape(block.k.shape)
    v = v.at[rows, :, run].set(recent.v, mode="drop").reshape(block.v.shape)
    return _laid(k, v)


def insert(cache: Cache, read: Cache, lengths: jax.Array, rows: jax.Array) -> Cache:
    """Prompts, the recent tokens of another cache, in these rows' blocks; a row that is out of
    range is left out.
    """

    def put(block: Piece, prompts: Piece, start: int) -> Piece:
        part = slice(start, start + block.v.shape[2])
        k, v = prompts.k[..., part], prompts.v[:, :, part]
        return _laid(
            block.k.at[rows, :, :, : k.shape[3]].set(k, mode="drop"),
            block.v.at[rows, :, : v.shape[2]].set(v, mode="drop"),
        )

    blocks = [
        [put(*pair, start) for pair in zip(layers, read.recent, strict=True)]
        for start, layers in zip(_starts(cache), cache.blocks, strict=True)
    ]
    prompt = cache.prompt.at[rows].set(lengths, mode="drop")
    end = cache.end.at[rows].set(_next_run(lengths), mode="drop")
    return cache._replace(blocks=blocks, prompt=prompt, end=end)


def _starts(cache: Cache) -> list[int]:
    sizes = [layers[0].k.shape[3] for layers in cache.blocks]
    return list(itertools.accumulate(sizes, initial=0))[:-1]


def _next_run(slot: jax.Array) -> jax.Array:
    return -(-slot // RUN) * RUN


def _laid(k: jax.Array, v: jax.Array) -> Piece:
    return Piece(*(constrain(x, "batch", "kv_heads", None, None) for x in (k, v)))
