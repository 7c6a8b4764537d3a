"""A small transformer over characters, and how it answers. Not to be changed.

Shapes: B batch, T time, D width, V characters.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

CHARACTERS = "0123456789+=\n"
PROMPT, ANSWER = len("23+58="), len("180")
CONTEXT = PROMPT + ANSWER
LAYERS, HEADS, WIDTH, INNER = 2, 4, 64, 256
ARTIFACT = Path(os.environ.get("ARTIFACT", "artifact"))


def encode(lines: list[str]) -> np.ndarray:
    return np.array([[CHARACTERS.index(c) for c in line] for line in lines], np.int32)


def decode(rows: np.ndarray) -> list[str]:
    return ["".join(CHARACTERS[i] for i in row) for row in rows]


def initialize(seed: int) -> dict:
    draw = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 0.1) -> np.ndarray:
        return np.float32(scale) * draw.standard_normal(shape, np.float32)

    return {
        "characters": normal(len(CHARACTERS), WIDTH),
        "positions": normal(CONTEXT, WIDTH),
        "blocks": [
            {
                "qkv": normal(WIDTH, 3 * WIDTH),
                "out": normal(WIDTH, WIDTH, scale=0.05),
                "inner": normal(WIDTH, INNER),
                "outer": normal(INNER, WIDTH, scale=0.05),
            }
            for _ in range(LAYERS)
        ],
        "head": normal(WIDTH, len(CHARACTERS)),
    }


def normed(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def logits(parameters: dict, tokens: jax.Array) -> jax.Array:
    """[B, T] -> [B, T, V], of the character after each."""
    b, t = tokens.shape
    x = parameters["characters"][tokens] + parameters["positions"][:t]
    for block in parameters["blocks"]:
        parts = jnp.split(normed(x) @ block["qkv"], 3, -1)
        query, key, value = (part.reshape(b, t, HEADS, WIDTH // HEADS) for part in parts)
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        x = x + mixed.reshape(b, t, WIDTH) @ block["out"]
        x = x + jax.nn.gelu(normed(x) @ block["inner"]) @ block["outer"]
    return normed(x) @ parameters["head"]


def answers(parameters: dict, prompts: jax.Array, key: jax.Array, temperature: float) -> jax.Array:
    """[B, PROMPT] -> [B, ANSWER]; at temperature 0 the likeliest characters."""

    def draw(t: int, tokens: jax.Array) -> jax.Array:
        there = logits(parameters, tokens)[:, t - 1]
        noise = jax.random.gumbel(jax.random.fold_in(key, t), there.shape)
        return tokens.at[:, t].set((there + temperature * noise).argmax(-1))

    room = jnp.zeros((len(prompts), ANSWER), jnp.int32)
    tokens = jnp.concatenate([prompts, room], axis=1)
    return jax.lax.fori_loop(PROMPT, CONTEXT, draw, tokens)[:, PROMPT:]


def save(parameters: dict, path: Path = ARTIFACT / "parameters.npz") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    leaves: dict = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(parameters))}
    np.savez(path, **leaves)


def restore(path: Path = ARTIFACT / "parameters.npz") -> dict:
    empty = initialize(0)
    with np.load(path, allow_pickle=False) as file:
        leaves = [
            file[str(i)].astype(np.float32).reshape(leaf.shape)
            for i, leaf in enumerate(jax.tree.leaves(empty))
        ]
    return jax.tree.unflatten(jax.tree.structure(empty), leaves)
