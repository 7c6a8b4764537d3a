"""What every shipped config resolves to, and the first losses of a fixed run: a change of any
default, or of the computation, shows as a difference in tests/goldens/.

    python tests/test_goldens.py

writes them anew; read the difference before committing it.
"""

import functools
import importlib.util
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from sbp_jax.config import (
    DataConfig,
    Experiment,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    resolve,
    to_json,
)
from sbp_jax.errors import UserError
from sbp_jax.training.step import init_state, train_step

HERE = Path(__file__).parent
GOLDENS = HERE / "goldens"
LOSSES = GOLDENS / "losses.json"


def get_config(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


def words_of(path):
    """Those that the file says it takes, when it gets one that it does not know."""
    try:
        get_config(path)("no_such_word")
    except UserError as error:
        return re.search("takes: (.*)$", str(error))[1].split(", ")
    raise AssertionError(f"{path} takes any word")


CONFIGS = [
    (path, word)
    for path in sorted((HERE.parent / "configs").glob("*.py"))
    for word in ("", *words_of(path))
]


def golden(path, word):
    return GOLDENS / (path.stem + (f"_{word}" if word else "") + ".json")


def resolved(path, word):
    return to_json(resolve(get_config(path)(word)))


def first_losses():
    """Of a tiny model on batches from a generator, by optimizer."""

    def batch(number):
        random = np.random.default_rng(number)
        ids = random.integers(64, size=(4, 33)).astype(np.int32)
        ids[:, 1::2] = (ids[:, :-1:2] * 7 + 3) % 64
        return {
            "inputs": ids[:, :-1],
            "targets": ids[:, 1:],
            "segments": np.cumsum(random.random((4, 32)) < 0.1, axis=1).astype(np.int32),
            "weights": (random.random((4, 32)) < 0.8).astype(np.float32),
        }

    def losses(optimizer):
        e = Experiment(
            model=ModelConfig(
                num_layers=2,
                d_model=32,
                num_heads=4,
                num_kv_heads=2,
                head_dim=8,
                d_ff=64,
                vocab_size=64,
            ),
            data=DataConfig(sequence_length=32),
            optimizer=OptimizerConfig(name=optimizer, peak_lr=1e-2, final_lr=1e-3),
            train=TrainConfig(tokens=6 * 4 * 32, batch_size=4),
        )
        quickly = {"xla_backend_optimization_level": 0}  # half of the compile time
        step = jax.jit(functools.partial(train_step, e), compiler_options=quickly)
        state, seen = jax.jit(functools.partial(init_state, e), compiler_options=quickly)(), []
        for number in range(e.num_steps):
            state, metrics = step(state, batch(number), np.zeros(1, np.int32))
            seen.append(round(float(metrics["loss"]), 6))
        return seen

    return {name: losses(name) for name in ("adamw", "muon")}


@pytest.mark.parametrize(("path", "word"), CONFIGS, ids=lambda x: getattr(x, "stem", x or "plain"))
def test_a_shipped_config_resolves_to_its_golden(path, word):
    assert resolved(path, word) == golden(path, word).read_text(), "see the top of this file"


def test_no_golden_is_left_of_a_config_that_is_gone():
    assert set(GOLDENS.iterdir()) == {LOSSES, *(golden(*config) for config in CONFIGS)}


def test_the_first_losses_are_the_golden_ones():
    expected, seen = json.loads(LOSSES.read_text()), first_losses()
    for name in expected:
        np.testing.assert_allclose(seen[name], expected[name], rtol=1e-4)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    GOLDENS.mkdir(exist_ok=True)
    for old in GOLDENS.glob("*.json"):
        old.unlink()
    for config in CONFIGS:
        golden(*config).write_text(resolved(*config))
    LOSSES.write_text(json.dumps(first_losses(), indent=2) + "\n")
