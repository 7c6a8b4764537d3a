"""Pretrains a GPT-2 on shards of tokens within a budget of time; its weights stay in artifact/.

The budget counts from the start of the process, so importing and compiling are paid for too; the
harness ends a process that does not stop by itself. `predict.py` needs of this file: `restore`,
which reads what `save` left, and `features`, which gives for each position a vector and for each
token of the vocabulary another, whose products are the logits of the next token. Position t must
not depend on tokens after t, nor on the other rows of the batch: the evaluator looks for that.

Shapes: B batch, T time, D width, H heads, V vocabulary.
"""

import importlib
import json
import os
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn import dot_product_attention as attention
from jax.sharding import Mesh, NamedSharding, PartitionSpec

settings = importlib.import_module(os.environ.get("SETTINGS", "laptop"))
DATA = Path(os.environ.get("DATA", "/data"))
ARTIFACT = Path(os.environ.get("ARTIFACT", "artifact"))
BUDGET_SECONDS = float(os.environ.get("BUDGET_SECONDS", "15"))
STEPS = int(os.environ.get("STEPS", "0"))  # if given: as many, whatever the time; for smoke runs
CPU_CLOCK = os.environ.get("CLOCK", "cpu") == "cpu"
ON_GPU = jax.default_backend() == "gpu"
STARTED = 0.0 if CPU_CLOCK else time.monotonic()


def spent() -> float:
    """Seconds of the budget: of CPU time where runs share a machine, of wall time elsewhere."""
    return (time.process_time() if CPU_CLOCK else time.monotonic()) - STARTED


# The model: GPT-2, with learned positions, biases, and one matrix for both ends.


def initialize(seed: int) -> dict:
    """By NumPy: JAX would compile for seconds what is drawn once."""
    s, draw = settings, np.random.default_rng(seed)

    def normal(rows: int, columns: int, scale: float) -> np.ndarray:
        return np.float32(scale) * draw.standard_normal((rows, columns), np.float32)

    def dense(fan_in: int, fan_out: int, scale: float) -> dict:
        return {"matrix": normal(fan_in, fan_out, scale), "bias": np.zeros(fan_out, np.float32)}

    def norm() -> dict:
        return {"scale": np.ones(s.width, np.float32), "bias": np.zeros(s.width, np.float32)}

    into_residual = s.init_scale / (2 * s.layers) ** 0.5
    return {
        "tokens": normal(s.vocabulary, s.width, s.init_scale),
        "positions": normal(s.context, s.width, s.init_scale),
        "blocks": [
            {
                "attention_norm": norm(),
                "qkv": dense(s.width, 3 * s.width, s.init_scale),
                "attention_out": dense(s.width, s.width, into_residual),
                "mlp_norm": norm(),
                "mlp_in": dense(s.width, s.mlp_ratio * s.width, s.init_scale),
                "mlp_out": dense(s.mlp_ratio * s.width, s.width, into_residual),
            }
            for _ in range(s.layers)
        ],
        "final_norm": norm(),
    }


def layer_norm(p: dict, x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    return (x * p["scale"] + p["bias"]).astype(settings.dtype)


def linear(p: dict, x: jax.Array) -> jax.Array:
    return x @ p["matrix"].astype(x.dtype) + p["bias"].astype(x.dtype)


def attend(p: dict, x: jax.Array) -> jax.Array:
    b, t, d = x.shape
    heads = (b, t, settings.heads, d // settings.heads)
    query, key, value = (part.reshape(heads) for part in jnp.split(linear(p["qkv"], x), 3, -1))
    fused = partial(attention, implementation="cudnn") if ON_GPU else attention
    mixed = fused(query, key, value, is_causal=True)
    return linear(p["attention_out"], mixed.reshape(b, t, d))


def activation(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x)


def features(parameters: dict, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[B, T] tokens -> [B, T, D] and [V, D]; the products of the two are the logits."""
    places = jnp.minimum(jnp.arange(tokens.shape[1]), settings.context - 1)
    x = (parameters["tokens"][tokens] + parameters["positions"][places]).astype(settings.dtype)
    for block in parameters["blocks"]:
        x = x + attend(block, layer_norm(block["attention_norm"], x))
        inner = activation(linear(block["mlp_in"], layer_norm(block["mlp_norm"], x)))
        x = x + linear(block["mlp_out"], inner)
    return layer_norm(parameters["final_norm"], x), parameters["tokens"].astype(settings.dtype)


def loss_of(parameters: dict, rows: jax.Array) -> jax.Array:
    """Of [B, T + 1] tokens: the mean cross-entropy of each token after the first."""
    hidden, unembedding = features(parameters, rows[:, :-1])
    logits = jnp.einsum("btd,vd->btv", hidden, unembedding, preferred_element_type=jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()


# The optimizer: AdamW, with decay on matrices alone.


def learning_rate(step: int, progress: float) -> float:
    """Linear warm-up by steps, then down with the share of the budget that is spent."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    shapes = {
        "cosine": (1 + np.cos(np.pi * progress)) / 2,
        "linear": 1 - progress,
        "constant": 1.0,
    }
    shape = shapes[settings.schedule]
    share = settings.final_share + (1 - settings.final_share) * float(shape)
    return settings.peak_rate * warm * share


def is_matrix(parameters: dict) -> dict:
    return jax.tree.map(lambda p: p.ndim > 1, parameters)


optimizer = optax.chain(
    optax.clip_by_global_norm(settings.clip_norm),
    optax.scale_by_adam(settings.beta1, settings.beta2, eps=1e-8),
    optax.add_decayed_weights(settings.weight_decay, mask=is_matrix),
)


@partial(jax.jit, donate_argnums=(0, 1))
def train_step(parameters: dict, moments: tuple, rows: jax.Array, rate: jax.Array) -> tuple:
    """One update by rows [A, B, T + 1]; the A parts are gone through one after another."""

    def add(total: tuple, part: jax.Array) -> tuple:
        return jax.tree.map(jnp.add, total, jax.value_and_grad(loss_of)(parameters, part)), None

    nothing = jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters)
    (loss, gradient), _ = jax.lax.scan(add, nothing, rows)
    loss, gradient = jax.tree.map(lambda x: x / len(rows), (loss, gradient))
    change, moments = optimizer.update(gradient, moments, parameters)
    return jax.tree.map(lambda p, c: p - rate * c, parameters, change), moments, loss


# The data: random windows, as many of one shard as of another.


def open_shards() -> list[np.ndarray]:
    shards = [np.load(path, mmap_mode="r") for path in sorted(DATA.glob("train-*.npy"))]
    assert shards, f"no train-*.npy in {DATA}"
    return shards


def windows(shards: list[np.ndarray], count: int, draw: np.random.Generator) -> np.ndarray:
    """[count, T + 1]."""
    which = draw.integers(0, len(shards), count)
    starts = draw.integers(0, [len(shards[i]) - settings.context for i in which])
    rows = [shards[i][at : at + settings.context + 1] for i, at in zip(which, starts, strict=True)]
    return np.stack(rows).astype(np.int32)


# The run.


def save(parameters: dict) -> None:
    ARTIFACT.mkdir(exist_ok=True)
    leaves: dict = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(parameters))}
    np.savez(ARTIFACT / "parameters.npz", **leaves)


def restore() -> dict:
    empty = initialize(0)
    with np.load(ARTIFACT / "parameters.npz", allow_pickle=False) as file:
        leaves = [jnp.asarray(file[str(i)]) for i in range(len(jax.tree.leaves(empty)))]
    return jax.tree.unflatten(jax.tree.structure(empty), leaves)


def main() -> None:
    seed = int(os.environ.get("SEED", "0"))
    devices = Mesh(np.array(jax.devices()), ("data",))
    everywhere = NamedSharding(devices, PartitionSpec())
    by_row = NamedSharding(devices, PartitionSpec(None, "data"))
    parameters = jax.device_put(initialize(seed), everywhere)
    moments = jax.jit(optimizer.init, out_shardings=everywhere)(parameters)
    shards, draw = open_shards(), np.random.default_rng(seed)

    step, losses = 0, []
    while (step < STEPS) if STEPS else (spent() < BUDGET_SECONDS - settings.reserve_seconds):
        progress = step / STEPS if STEPS else min(1.0, spent() / BUDGET_SECONDS)
        rows = windows(shards, settings.batch_rows, draw)
        rows = rows.reshape(settings.parts, -1, settings.context + 1)
        parameters, moments, loss = train_step(
            parameters, moments, jax.device_put(rows, by_row), learning_rate(step, progress)
        )
        losses.append(float(loss))
        step += 1
        if step & (step - 1) == 0 or step % settings.log_every == 0:
            recent = np.mean(losses[-settings.log_every :])
            print(f"step {step} loss {recent:.4f} spent {spent():.1f} s", flush=True)
    save(parameters)
    tokens = step * settings.batch_rows * settings.context
    print(json.dumps({"steps": step, "tokens": tokens, "spent": round(spent(), 2)}))


if __name__ == "__main__":
    main()
