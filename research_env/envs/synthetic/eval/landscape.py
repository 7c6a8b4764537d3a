"""A landscape of settings whose best point is known: its score is 1, that of the start about 0.5.

It has what makes research hard, in small. Settings pull with unequal force; the best learning rate
depends on the batch, the optimizer and the schedule; some choices crash or need too much memory;
every run has noise; and on each split a setting has luck of its own, which repeated runs there do
not show. All draws come from the settings, split and seed.
"""

import math
import random
from collections.abc import Mapping
from typing import Any

# Setting: its best value, how far from it (in factors of e) most is lost, and how much that is.
NUMBERS = {
    "WARMUP_STEPS": (400.0, 2.0, 0.04),
    "BATCH_SIZE": (64.0, 1.5, 0.06),
    "WEIGHT_DECAY": (0.03, 2.5, 0.03),
    "WIDTH": (256.0, 1.0, 0.08),
    "DEPTH": (8.0, 0.8, 0.08),
}
RATE = (0.003, 1.2, 0.15)  # at the best batch, with the best optimizer
DROPOUT = (0.1, 0.3, 0.05)  # here the distance is the difference
FORGETTING = (0.05, 2.5, 0.04)  # 1 - BETA2
SWITCHES = {
    "OPTIMIZER": {"muon": 0.0, "adamw": 0.03, "adam": 0.05, "lion": 0.06, "sgd": 0.12},
    "ACTIVATION": {"silu": 0.0, "gelu": 0.02, "relu": 0.05, "tanh": 0.10},
    "SCHEDULE": {"cosine": 0.0, "linear": 0.01, "constant": 0.06},
    "NORM": {"rmsnorm": 0.0, "layernorm": 0.01, "none": 0.15},
}
FLAGS = {"USE_BIAS": (False, 0.01), "TIE_EMBEDDINGS": (True, 0.03)}
BEST = {
    "LEARNING_RATE": 0.003,
    "WARMUP_STEPS": 400,
    "BATCH_SIZE": 64,
    "WEIGHT_DECAY": 0.03,
    "DROPOUT": 0.1,
    "WIDTH": 256,
    "DEPTH": 8,
    "BETA2": 0.95,
    "OPTIMIZER": "muon",
    "ACTIVATION": "silu",
    "SCHEDULE": "cosine",
    "NORM": "rmsnorm",
    "USE_BIAS": False,
    "TIE_EMBEDDINGS": True,
}
MEMORY = 4_000_000  # in units of width^2 * depth + activations


class Crashed(Exception):
    """The run would have ended with this message."""


class OutOfMemory(Exception):
    pass


def value(settings: Mapping[str, Any]) -> float:
    """Without noise: 1 at BEST and less elsewhere."""
    _check(settings)
    width, depth, batch = (settings[name] for name in ("WIDTH", "DEPTH", "BATCH_SIZE"))
    if width * depth * (width + 16 * batch) > MEMORY * 4:
        raise OutOfMemory(f"{width} x {depth} at a batch of {batch}")
    lost = sum(
        _lost(_log_ratio(settings[name], NUMBERS[name][0]), *NUMBERS[name][1:]) for name in NUMBERS
    )
    lost += _lost(_log_ratio(settings["LEARNING_RATE"], best_rate(settings)), *RATE[1:])
    lost += _lost(settings["DROPOUT"] - DROPOUT[0], *DROPOUT[1:])
    lost += _lost(_log_ratio(1 - settings["BETA2"], FORGETTING[0]), *FORGETTING[1:])
    lost += sum(table[settings[name]] for name, table in SWITCHES.items())
    lost += sum(cost for name, (good, cost) in FLAGS.items() if settings[name] is not good)
    return 1 - lost


def best_rate(settings: Mapping[str, Any]) -> float:
    """Settings depend on each other: who changes one has to tune this again."""
    by_optimizer = {"muon": 1.0, "adamw": 0.5, "adam": 0.5, "lion": 0.1, "sgd": 2.0}
    by_schedule = {"cosine": 1.0, "linear": 1.0, "constant": 0.5}
    factor = by_optimizer[settings["OPTIMIZER"]] * by_schedule[settings["SCHEDULE"]]
    return RATE[0] * factor * math.sqrt(settings["BATCH_SIZE"] / BEST["BATCH_SIZE"])


def measured(
    settings: Mapping[str, Any], split: str, seed: int, variables: Mapping[str, str]
) -> float:
    """One run, scored on a split; `variables` are [environment] of env.toml."""
    noise, luck = float(variables["NOISE"]), float(variables["LUCK"])
    key = repr(sorted(settings.items()))
    if variables["NULL"] == "1":
        _check(settings)
        return 0.5 + random.Random(f"{key}/{split}/{seed}").gauss(0.0, noise)
    lucky = random.Random(f"{key}/{split}").gauss(0.0, luck)
    return value(settings) + lucky + random.Random(f"{key}/{split}/{seed}").gauss(0.0, noise)


def _check(settings: Mapping[str, Any]) -> None:
    if missing := set(BEST) - set(settings):
        raise Crashed(f"NameError: name {min(missing)!r} is not defined")
    for name, best in BEST.items():
        given = settings[name]
        if isinstance(best, str):
            if given not in SWITCHES[name]:
                raise Crashed(f"ValueError: unknown {name} {given!r}")
        elif isinstance(best, bool):
            if not isinstance(given, bool):
                raise Crashed(f"TypeError: {name} is {given!r}")
        elif isinstance(given, bool) or not isinstance(given, int | float):
            raise Crashed(f"TypeError: {name} is {given!r}")
        elif isinstance(best, int) and (not isinstance(given, int) or given < 1):
            raise Crashed(f"ValueError: {name} must be a whole number above 0, not {given!r}")
        elif not math.isfinite(given):
            raise Crashed(f"ValueError: {name} is {given!r}")
    for name in ("DROPOUT", "BETA2"):
        if not 0 <= settings[name] < 1:
            raise Crashed(f"ValueError: {name} must lie in [0, 1), not {settings[name]!r}")
    for name in ("LEARNING_RATE", "WEIGHT_DECAY"):
        if settings[name] <= 0:
            raise Crashed(f"ValueError: {name} must be above 0")
    if settings["LEARNING_RATE"] > 30 * best_rate(settings):
        raise Crashed("FloatingPointError: the loss is nan at step 12")


def _lost(distance: float, wide: float, most: float) -> float:
    """Little near the best point, and never more than `most`."""
    return most * (1 - math.exp(-((distance / wide) ** 2)))


def _log_ratio(a: float, b: float) -> float:
    return math.log(a / b)
