"""The compiled half of the JAX engine: reading prompts, drawing tokens.

Every function works on all rows at once and each row's values depend on that row alone.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sbp_jax.config import ModelConfig
from sbp_jax.model import cache, transformer
from sbp_jax.model.cache import Cache, Piece
from sbp_jax.model.transformer import compute_dtype
from sbp_jax.parallel import constrain

STOPS = 16  # ids that may end a text
BLOCK = 128  # ids of the vocabulary, see `_pick`


class Rows(NamedTuple):
    """What the devices know of each row; B rows."""

    token: Any  # [B] drawn last, not in the cache yet
    drawn: Any  # [B] number of tokens drawn
    left: Any  # [B] number of tokens still to draw; 0 when the row is idle
    seed: Any  # [B, 2]
    temperature: Any  # [B]
    top_k: Any  # [B]
    top_p: Any  # [B]
    stops: Any  # [B, STOPS] ids; -1 is none


def idle(count: int) -> Rows:
    token, drawn, left = np.zeros((3, count), np.int32)
    return Rows(
        token,
        drawn,
        left,
        seed=np.zeros((count, 2), np.uint32),
        temperature=np.zeros(count, np.float32),
        top_k=np.ones(count, np.int32),
        top_p=np.ones(count, np.float32),
        stops=np.full((count, STOPS), -1, np.int32),
    )


@functools.partial(jax.jit, static_argnames="config")
def prepare(config: ModelConfig, params: transformer.Params) -> transformer.Params:
    def lay(value: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        return constrain(value, *(None if axis == "width" else axis for axis in axes))

    axes = transformer.param_metadata(config, "axes")
    return transformer.apart(config, jax.tree.map(lay, params, axes))


@functools.partial(jax.jit, static_argnames=("config", "batch"))
def new_cache(config: ModelConfig, batch: int) -> Cache:
    return cache.empty(config, batch, cache.RUN, compute_dtype(config))


@functools.partial(jax.jit, static_argnames=("config", "batch", "slots"))
def new_block(config: ModelConfig, batch: int, slots: int) -> list[Piece]:
    return cache.empty_block(config, batch, slots, compute_dtype(config))


@functools.partial(jax.jit, static_argnames=("config", "vocab", "filtered"))
def prefill(config, vocab, filtered, params, rows: Rows, tokens, lengths):
    """The rows with a first token each, its log-probability, and what they have read."""
    model = transformer.bind(config, params)
    batch, length = tokens.shape
    room = cache.empty(config, batch, length, compute_dtype(config))
    hidden, read = model(tokens, cache=room)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)
    token, logprob = _draw(model.logits(last)[:, 0], rows, vocab, filtered)
    return _advance(rows, token), logprob, read


@functools.partial(jax.jit, donate_argnums=(0, 1))
def insert(rows: Rows, past: Cache, new: Rows, read: Cache, lengths, places):
    rows = jax.tree.map(lambda x, y: x.at[places].set(y, mode="drop"), rows, new)
    return rows, cache.insert(past, read, lengths, places)


@functools.partial(
    jax.jit, static_argnames=("config", "vocab", "filtered"), donate_argnames=("rows", "past")
)
def decode(config, vocab, filtered, params, rows: Rows, past: Cache, steps):
    """Draws tokens, a run of them if `steps` is `RUN`; what it drew is [RUN, B].

    That no row goes on is not asked here: the devices would have to agree on it at every step.
    """
    model = transformer.bind(config, params)
    shape = cache.RUN, len(rows.left)
    drawn = jnp.zeros(shape, jnp.int32), jnp.zeros(shape)

    def draw(_, carry):
        rows, recent, filled, drawn = carry
        so_far = past._replace(recent=recent, filled=filled)
        hidden, after = model(rows.token[:, None], cache=so_far)
        new = _draw(model.logits(hidden)[:, 0], rows, vocab, filtered)
        drawn = tuple(x.at[filled].set(y) for x, y in zip(drawn, new, strict=True))
        return _advance(rows, new[0]), after.recent, after.filled, drawn

    start = rows, past.recent, past.filled, drawn
    rows, recent, _, drawn = jax.lax.fori_loop(0, steps, draw, start)
    return rows, cache.settle(past._replace(recent=recent)), *drawn


def _advance(rows: Rows, token: jax.Array) -> Rows:
    goes_on = rows.left > 0
    ends = (token[:, None] == rows.stops).any(-1)
    rows = rows._replace(
        token=jnp.where(goes_on, token, rows.token),
        drawn=rows.drawn + goes_on,
        left=jnp.where(goes_on & ~ends, rows.left - 1, 0),
    )
    return Rows(*(constrain(x, "batch", *[None] * (x.ndim - 1)) for x in rows))


def _draw(logits: jax.Array, rows: Rows, vocab: int, filtered: bool):
    """A token for each row, and its log-probability in the model's own distribution."""
    # Ids that only fill the vocabulary up are in that distribution, but are never drawn.
    known = jnp.where(jnp.arange(logits.shape[1]) < vocab, logits, -jnp.inf)
    warm = known / jnp.maximum(rows.temperature, 1e-6)[:, None]
    if filtered:
        warm = likeliest(warm, rows.top_k, rows.top_p)
    keys = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(rows.seed), rows.drawn)
    warm = _pick(warm, jax.vmap(jax.random.uniform)(keys))
    token = jnp.where(rows.temperature > 0, warm, argmax(known)).astype(jnp.int32)
    chosen = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    return token, chosen - jax.nn.logsumexp(logits, axis=-1)


def argmax(logits: jax.Array) -> jax.Array:
    """The first of the largest; XLA's own takes four times as long on a CPU."""
    ids = jnp.arange(logits.shape[-1])
    largest = jnp.where(logits == logits.max(-1, keepdims=True), ids, len(ids) - 1)
    return largest.min(-1)


def _pick(logits: jax.Array, uniform: jax.Array) -> jax.Array:
    """The id at which the cumulated probabilities pass a number from [0, 1).

    Noise for every id would cost more than a small model's step. Sums over blocks first, then over
    the ids of one of them: a sum of all would be long and inexact.
    """
    mass = jnp.exp(logits - logits.max(-1, keepdims=True))
    mass = jnp.pad(mass, [(0, 0), (0, -mass.shape[1] % BLOCK)]).reshape(len(mass), -1, BLOCK)
    block, rest = _place(mass.sum(-1), uniform)
    inside = jnp.take_along_axis(mass, block[:, None, None], axis=1)[:, 0]
    return block * BLOCK + _place(inside, rest)[0]


def _place(mass: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where a number falls among shares, and where in [0, 1) within that share."""
    ends = jnp.cumsum(mass, axis=-1)
    target = uniform * ends[:, -1]
    index = (ends <= target[:, None]).sum(-1)
    share = jnp.take_along_axis(mass, index[:, None], axis=1)[:, 0]
    start = jnp.take_along_axis(ends, index[:, None], axis=1)[:, 0] - share
    return index, jnp.clip((target - start) / share, 0, 1 - 2**-23)


def likeliest(logits: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Leaves the k likeliest ids, and of these the fewest whose probabilities reach p; -inf
    elsewhere. [B, V], and [B] of each.
    """
    # Floats as integers of the same order, so that a threshold is found bit by bit: sorting a
    # vocabulary takes much longer.
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    order = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))

    def fewest(mass: jax.Array, target: jax.Array) -> jax.Array:
        """Whether an id is among the likeliest that make up the target."""

        def bit(i, threshold):
            higher = threshold | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
            reached = jnp.where(order >= higher[:, None], mass, 0).sum(-1) >= target
            return jnp.where(reached, higher, threshold)

        threshold = jax.lax.fori_loop(0, 32, bit, jnp.zeros(len(order), jnp.uint32))
        return order >= threshold[:, None]

    kept = fewest(jnp.ones_like(logits), top_k)
    probability = jax.nn.softmax(jnp.where(kept, logits, -jnp.inf))
    kept &= fewest(probability, top_p) | (top_p >= 1)[:, None]
    return jnp.where(kept, logits, -jnp.inf)
