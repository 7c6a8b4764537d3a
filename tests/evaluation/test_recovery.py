"""The share of the gap, held to arithmetic written out, and to what is known of the draws."""

import numpy as np
import pytest

from sbp_jax.evaluation.recovery import Recovery
from sbp_jax.evaluation.scores import Score

DOCUMENTS = 400


def scores(random, mean, seeds=3, spread=0.05):
    """Losses of documents of different lengths, around a mean in nats a token."""
    tokens = random.integers(20, 120, DOCUMENTS).astype(float)
    return [
        Score((mean + random.normal(0, spread, DOCUMENTS)) * tokens, tokens) for _ in range(seeds)
    ]


def test_the_share_is_that_of_the_mean_losses():
    random = np.random.default_rng(0)
    losses = {
        "baseline": scores(random, 1.0),
        "sbp": scores(random, 0.8),
        "oracle": scores(random, 0.5),
    }
    found = Recovery(losses, seed=0).share("baseline", "sbp", "oracle")
    means = {
        arm: np.mean([s.values.sum() / s.weights.sum() for s in some])
        for arm, some in losses.items()
    }
    gain = means["baseline"] - means["oracle"]
    assert found["value"] == pytest.approx((means["baseline"] - means["sbp"]) / gain)
    assert found["low"] < found["value"] < found["high"]
    assert len(found["seeds"]) == 3 and np.mean(found["seeds"]) == pytest.approx(
        found["value"], 0.01
    )


def test_the_same_seed_gives_the_same_interval_and_wider_losses_a_wider_one():
    def width(spread, seed=0):
        random = np.random.default_rng(1)
        arms = {"baseline": 1.0, "sbp": 0.8, "oracle": 0.5}
        losses = {arm: scores(random, mean, spread=spread) for arm, mean in arms.items()}
        found = Recovery(losses, seed).share("baseline", "sbp", "oracle")
        return found["high"] - found["low"]

    assert width(0.05) == width(0.05)
    assert width(0.05) != width(0.05, seed=1)
    assert width(0.5) > 3 * width(0.05)


def test_the_interval_of_an_arm_that_gains_nothing_holds_zero():
    """95 of 100 times; with 40 tries, fewer than 30 has a chance of one in a billion."""
    holds = 0
    for trial in range(40):
        random = np.random.default_rng(trial)
        losses = {
            "baseline": scores(random, 1.0, 1, 0.3),
            "sbp": scores(random, 1.0, 1, 0.3),
            "oracle": scores(random, 0.5, 1, 0.3),
        }
        found = Recovery(losses, seed=trial).share("baseline", "sbp", "oracle")
        holds += found["low"] <= 0 <= found["high"]
    assert 30 <= holds <= 40


def test_where_the_oracle_is_no_better_there_is_no_share():
    random = np.random.default_rng(2)
    losses = {
        "baseline": scores(random, 0.5),
        "sbp": scores(random, 0.8),
        "oracle": scores(random, 1.0),
    }
    found = Recovery(losses, seed=0).share("baseline", "sbp", "oracle")
    assert found == {"value": None, "low": None, "high": None, "seeds": [None] * 3}
