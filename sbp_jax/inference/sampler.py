"""Sampling on the JAX model: one prefill, then one compiled loop over a cache.

Each row draws with its own key, so a text does not depend on what else is in its batch.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sbp_jax.config import ModelConfig
from sbp_jax.model import transformer


def generate(
    config: ModelConfig,
    params: transformer.Params,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_id: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[list[int]]:
    """New tokens for each prompt, without the stopping one; temperature 0 is greedy."""
    if not prompts or not all(len(p) for p in prompts):
        raise ValueError("every prompt needs a token to begin with")
    lengths = np.array([len(p) for p in prompts], np.int32)
    padded = np.zeros((len(prompts), int(lengths.max())), np.int32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    tokens, counts = jax.device_get(
        _generate(
            config, params, padded, lengths, max_new_tokens, stop_id, temperature, top_p, seed
        )
    )
    return [row[:n].tolist() for row, n in zip(tokens, counts, strict=True)]


@functools.partial(jax.jit, static_argnames=("config", "max_new_tokens"))
def _generate(config, params, padded, lengths, max_new_tokens, stop_id, temperature, top_p, seed):
    model = transformer.bind(config, params)
    batch, width = padded.shape
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(jnp.arange(batch))
    cache = model.init_cache(batch, width + max_new_tokens)

    def draw(hidden, index):
        logits = model.logits(hidden)[:, 0]
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        warm = jax.vmap(jax.random.categorical)(
            step_keys, nucleus(logits / jnp.maximum(temperature, 1e-6), top_p)
        )
        return jnp.where(temperature > 0, warm, logits.argmax(-1)).astype(jnp.int32)

    hidden, cache = model(padded, cache=cache)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)
    token = draw(last, 0)

    def unfinished(carry):
        index, _, _, _, done = carry
        return (index < max_new_tokens) & ~done.all()

    def step(carry):
        index, token, texts, cache, done = carry
        done = done | (token == stop_id)
        texts = texts.at[:, index].set(jnp.where(done, stop_id, token))
        hidden, cache = model(token[:, None], positions=(lengths + index)[:, None], cache=cache)
        return index + 1, draw(hidden, index + 1), texts, cache, done

    texts = jnp.full((batch, max_new_tokens), stop_id, jnp.int32)
    carry = (0, token, texts, cache, jnp.zeros(batch, bool))
    _, _, texts, _, _ = jax.lax.while_loop(unfinished, step, carry)
    ended = texts == stop_id
    return texts, jnp.where(ended.any(1), ended.argmax(1), max_new_tokens)


def nucleus(logits: jax.Array, top_p: float | jax.Array) -> jax.Array:
    """Keeps the likeliest tokens whose probabilities add up to `top_p`; at 1 all of them."""
    ordered = jnp.sort(logits, axis=-1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1) - jax.nn.softmax(
        ordered, axis=-1
    )
    kept = (before < jnp.maximum(top_p, 1e-6)) | (top_p >= 1)  # the likeliest always
    lowest = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= lowest, logits, -jnp.inf)
