"""GRPO: the model in /data/warm_up.npz learns from which of its own answers are right.

The budget counts CPU time from the start of the process, so importing and compiling are paid for.
"""

import json
import os
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import model
import numpy as np
import optax
import settings as s

DATA = Path(os.environ.get("DATA", "/data"))
BUDGET_SECONDS = float(os.environ.get("BUDGET_SECONDS", "40"))
STEPS = int(os.environ.get("STEPS", "0"))  # if given: as many, whatever the time; for smoke runs


def advantages(rewards: jax.Array) -> jax.Array:
    """[prompts, group] -> the same: how much better than the group's mean each answer is."""
    centred = rewards - rewards.mean(1, keepdims=True)
    if s.divide_by_deviation:
        centred = centred / (rewards.std(1, ddof=1, keepdims=True) + s.epsilon)
    return centred


def log_probabilities(parameters: dict, rows: jax.Array) -> jax.Array:
    """[B, CONTEXT] -> [B, ANSWER], at the temperature of drawing."""
    scaled = model.logits(parameters, rows[:, :-1])[:, model.PROMPT - 1 :] / s.temperature
    drawn = rows[:, model.PROMPT :, None]
    return jnp.take_along_axis(jax.nn.log_softmax(scaled), drawn, axis=-1)[..., 0]


def loss(parameters: dict, rows: jax.Array, advantage: jax.Array, old: jax.Array) -> jax.Array:
    ratio = jnp.exp(log_probabilities(parameters, rows) - old)
    clipped = jnp.clip(ratio, 1 - s.clip, 1 + s.clip)
    return -jnp.minimum(ratio * advantage, clipped * advantage).mean()


optimizer = optax.chain(
    optax.clip_by_global_norm(s.clip_norm),
    optax.scale_by_adam(s.beta1, s.beta2),
    optax.add_decayed_weights(s.weight_decay),
)


def learning_rate(step: int, progress: float) -> float:
    shape = {"constant": 1.0, "linear": 1 - progress}[s.schedule]
    return s.learning_rate * min(1.0, (step + 1) / s.warmup_steps) * shape


@partial(jax.jit, donate_argnums=(0, 1))
def step_of(parameters, moments, prompts, right, key, rate):
    """Draw, reward, learn: [prompts, PROMPT] and their right answers."""
    asked = jnp.repeat(prompts, s.group, axis=0)
    given = model.answers(parameters, asked, key, s.temperature)
    rewards = (given == jnp.repeat(right, s.group, axis=0)).all(1).astype(jnp.float32)
    advantage = advantages(rewards.reshape(-1, s.group)).reshape(-1, 1)
    rows = jnp.concatenate([asked, given], axis=1)
    old = log_probabilities(parameters, rows)
    for _ in range(s.passes):
        gradient = jax.grad(loss)(parameters, rows, advantage, old)
        change, moments = optimizer.update(gradient, moments, parameters)
        parameters = jax.tree.map(lambda p, c: p - rate * c, parameters, change)
    return parameters, moments, rewards.mean()


def main() -> None:
    seed = int(os.environ.get("SEED", "0"))
    draw, key = np.random.default_rng(seed), jax.random.key(seed)
    problems = model.encode((DATA / "problems.txt").read_text().split())
    parameters = jax.device_put(model.restore(DATA / "warm_up.npz"))
    moments = optimizer.init(parameters)

    step, rewards = 0, []
    while (step < STEPS) if STEPS else time.process_time() < BUDGET_SECONDS - s.reserve_seconds:
        chosen = problems[draw.integers(0, len(problems), s.prompts)]
        prompts, right = chosen[:, : model.PROMPT], chosen[:, model.PROMPT :]
        progress = step / STEPS if STEPS else min(1.0, time.process_time() / BUDGET_SECONDS)
        rate = learning_rate(step, progress)
        here = jax.random.fold_in(key, step)
        parameters, moments, reward = step_of(parameters, moments, prompts, right, here, rate)
        rewards.append(float(reward))
        step += 1
        if step % s.log_every == 0:
            recent = np.mean(rewards[-s.log_every :])
            print(f"step {step} right {recent:.4f} spent {time.process_time():.1f} s", flush=True)
    model.save(parameters)
    print(json.dumps({"steps": step, "answers": step * s.prompts * s.group}))


if __name__ == "__main__":
    main()
