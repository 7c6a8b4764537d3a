"""Writes what math_grpo's runs read: problems, three splits for the harness alone, and a model that
adds badly, by supervised learning that is stopped early.

    python -m research_env.envs.math_grpo.prepare
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import importlib.util
import io
import random
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import optax

from sbp_jax import files

HERE = Path(__file__).parent
SPLITS = ("search", "selection", "final")
ROWS = 1000  # problems of a split
ENOUGH = 0.15  # right answers to problems that were not learnt, at temperature 1
BATCH, RATE, MOST_STEPS, LOOK = 128, 1e-3, 6000, 10


def main() -> None:
    output = HERE / "prepared"
    warm_up, steps, right = warmed_up(write_problems(output))
    files.write_bytes(output / "data" / "warm_up.npz", warm_up)
    print(f"{output}: {right:.0%} right after {steps} steps of supervised learning")


def write_problems(output: Path) -> list[str]:
    """The splits, and what is left to learn on, which is returned."""
    lines = [line(a, b) for a in range(100) for b in range(100)]
    random.Random(0).shuffle(lines)
    for i, split in enumerate(SPLITS):
        part = lines[i * ROWS : (i + 1) * ROWS]
        files.write_bytes(output / "splits" / split / "problems.txt", "\n".join(part).encode())
    problems = lines[len(SPLITS) * ROWS :]
    files.write_bytes(output / "data" / "problems.txt", "\n".join(problems).encode())
    return problems


def line(a: int, b: int) -> str:
    return f"{a:02}+{b:02}={f'{a + b:03}'[::-1]}"


def warmed_up(problems: list[str]) -> tuple[bytes, int, float]:
    """Its weights, the steps it took, and the share it answers rightly when it draws."""
    model = model_module()
    rows = model.encode(problems)
    fresh, rows = rows[:ROWS], rows[ROWS:]
    optimizer = optax.adam(RATE)

    def loss(parameters, batch):
        there = model.logits(parameters, batch[:, :-1])[:, model.PROMPT - 1 :]
        true = batch[:, model.PROMPT :]
        return optax.softmax_cross_entropy_with_integer_labels(there, true).mean()

    @jax.jit
    def step(parameters, moments, batch):
        change, moments = optimizer.update(jax.grad(loss)(parameters, batch), moments)
        return optax.apply_updates(parameters, change), moments

    draw, answers = np.random.default_rng(0), jax.jit(model.answers)
    parameters = model.initialize(0)
    moments = optimizer.init(parameters)
    right = 0.0
    for number in range(1, MOST_STEPS + 1):
        batch = rows[draw.integers(0, len(rows), BATCH)]
        parameters, moments = step(parameters, moments, batch)
        if number % LOOK == 0:
            given = answers(parameters, fresh[:, : model.PROMPT], jax.random.key(number), 1.0)
            right = float((given == fresh[:, model.PROMPT :]).all(1).mean())
            if right >= ENOUGH:
                break
    written = io.BytesIO()
    leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(parameters))}
    np.savez(written, **leaves)  # type: ignore[arg-type]
    return written.getvalue(), number, right


def model_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("math_grpo_model", HERE / "code" / "model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    cli.run(main, needs=())
