"""The share of the oracle's gain that an arm recovers: (baseline - arm) / (baseline - oracle).

Losses are held-out losses, means over seeds. For the 95% interval, seeds and documents are drawn
again, the same ones for all arms; of three seeds there are few ways to draw, so the shares of each
seed stand beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sbp_jax.evaluation.scores import Score

RESAMPLES, CHUNK = 10_000, 500


class Recovery:
    def __init__(self, losses: Mapping[str, Sequence[Score]], seed: int):
        """The loss of each arm, a score a seed, on the same documents."""
        random = np.random.default_rng(seed)
        first = next(iter(losses.values()))
        documents, seeds = len(first[0].values), len(first)
        picked = random.integers(seeds, size=(RESAMPLES, seeds))
        rows = np.arange(RESAMPLES)[:, None]
        self._of_seeds = {a: np.array([s.value for s in scores]) for a, scores in losses.items()}
        drawn: dict[str, list[np.ndarray]] = {arm: [] for arm in losses}
        for _ in range(RESAMPLES // CHUNK):
            counts = np.stack(
                [
                    np.bincount(random.integers(documents, size=documents), minlength=documents)
                    for _ in range(CHUNK)
                ]
            ).astype(float)
            for arm, scores in losses.items():
                drawn[arm].append(np.stack([score.of(counts) for score in scores], axis=1))
        self._drawn = {
            arm: np.concatenate(parts)[rows, picked].mean(axis=1) for arm, parts in drawn.items()
        }

    def share(self, baseline: str, arm: str, oracle: str) -> dict[str, Any]:
        """value, low, high, and that of each seed; None where the oracle is no better."""

        def of(losses: Mapping[str, Any]) -> Any:
            gain = np.asarray(losses[baseline] - losses[oracle])
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(gain > 0, (losses[baseline] - losses[arm]) / gain, np.nan)

        means = {name: losses.mean() for name, losses in self._of_seeds.items()}
        resampled = of(self._drawn)
        bounds = [np.nan, np.nan]
        if np.isfinite(resampled).mean() > 0.95:  # else the gap itself is not there
            bounds = list(np.nanquantile(resampled, [0.025, 0.975]))
        value, low, high, *seeds = (
            float(x) if np.isfinite(x) else None for x in (of(means), *bounds, *of(self._of_seeds))
        )
        return {"value": value, "low": low, "high": high, "seeds": seeds}
