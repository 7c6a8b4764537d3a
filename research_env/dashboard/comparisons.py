"""The best so far, and what it has to be compared with before anyone is glad.

The best of many noisy scores is good whatever the ideas are worth. So beside the search's own curve
stand the baseline with its noise, what luck alone would have reached by then (the best of n draws
from the baseline's noise), and what the best of n ideas without any search would have reached (the
best of n draws from the ideas of this very search that saw no other).
"""

import bisect
import math
from collections.abc import Callable
from statistics import NormalDist, fmean, stdev
from typing import Any, NamedTuple

from research_env.dashboard.snapshot import Row, Snapshot
from research_env.researcher.interface import BASELINE, FRESH
from sbp_jax.reporting.wording import number

POINTS = 120  # of a curve that is computed
FEWEST_FRESH = 5  # ideas, to say what the best of n would be
COVERED = 0.95
_SURE = NormalDist().inv_cdf(0.5 + COVERED / 2)


class Band(NamedTuple):
    n: list[int]  # ideas
    middle: list[float]
    low: list[float]
    high: list[float]


class Step(NamedTuple):
    """Where the best so far became better."""

    n: int
    row: Row
    score: float


class Comparison(NamedTuple):
    ended: list[Row]  # ideas in the order in which they ended: the n-th is at n
    steps: list[Step]
    baseline: float | None
    noise: float | None  # standard deviation of one score of the baseline
    luck: Band | None
    best_of_n: Band | None

    @property
    def decimals(self) -> int | None:
        """Of scores, as far as they say anything: two digits of the noise. None for any number."""
        if self.noise and 1e-9 < self.noise < 1e9:
            return max(0, 1 - math.floor(math.log10(self.noise)))
        if self.baseline and 1e-6 < abs(self.baseline) < 1e6:
            return max(0, 4 - math.floor(math.log10(abs(self.baseline))))
        return None

    @property
    def error(self) -> float | None:
        """Half the width of the interval of one score."""
        return None if self.noise is None else _SURE * self.noise


def compare(snapshot: Snapshot) -> Comparison:
    ended = sorted(
        (row for row in snapshot.ideas if row.finished is not None),
        key=lambda row: (row.finished, row.id),
    )
    base, noise = baseline(snapshot)
    steps: list[Step] = []
    best = base
    for n, row in enumerate(ended, 1):
        if row.score is not None and (best is None or snapshot.better(row.score, best)):
            best = row.score
            steps.append(Step(n, row, best))
    places = _places(len(ended))
    return Comparison(
        ended, steps, base, noise,
        _luck(places, base, noise, snapshot.maximize),
        _best_of_n(places, ended, base, snapshot),
    )  # fmt: skip


def baseline(snapshot: Snapshot) -> tuple[float | None, float | None]:
    """Its mean on the search split, and the deviation of one run: as the search measured them, or
    from the runs that the bank holds.
    """
    scores = snapshot.scores(0, "search")
    said = snapshot.meta.get("baseline")
    told = said.get("search") if isinstance(said, dict) else said
    mean = _mean(told)
    if mean is None:
        own = next((row.score for row in snapshot.rows if row.kind == BASELINE), None)
        mean = fmean(scores) if scores else own
    noise = snapshot.meta.get("noise")
    noise = number(noise.get("search") if isinstance(noise, dict) else noise)
    if noise is None and len(scores) > 1:
        noise = stdev(scores)
    return mean, noise if noise and noise > 0 else None


def _mean(told: Any) -> float | None:
    """Of a number, or of several."""
    if isinstance(told, dict):
        return number(told.get("mean"))
    if isinstance(told, list):
        values = [value for value in map(number, told) if value is not None]
        return fmean(values) if values else None
    return number(told)


def _places(n: int) -> list[int]:
    if n <= POINTS:
        return list(range(1, n + 1))
    return sorted({round(1 + (n - 1) * i / (POINTS - 1)) for i in range(POINTS)})


def _luck(
    places: list[int], base: float | None, noise: float | None, maximize: bool
) -> Band | None:
    if not places or base is None or not noise:
        return None
    centre, sign = base, 1 if maximize else -1
    draw = NormalDist(0.0, noise)

    def quantile(q: float) -> float:
        # Beyond this nothing is left of the noise but rounding; the curve is flat there anyway.
        return centre + sign * draw.inv_cdf(min(max(q, 1e-300), 1 - 1e-12))

    return _band(places, quantile)


def _best_of_n(
    places: list[int], ended: list[Row], base: float | None, snapshot: Snapshot
) -> Band | None:
    """As far as there are fresh ideas: the best of more than were seen is not known. Nothing where
    the search is itself no more than that.
    """
    fresh = [row for row in ended if row.kind == FRESH]
    if len(fresh) < FEWEST_FRESH or len(fresh) > 0.95 * len(ended):
        return None
    scores = [row.score for row in fresh if row.score is not None]
    if not scores:
        return None
    worst_first = sorted(scores, reverse=not snapshot.maximize)
    failed = len(fresh) - len(scores)
    weakest = base if base is not None else worst_first[0]

    def quantile(q: float) -> float:
        """A failed idea leaves the baseline, as does one that is worse."""
        rank = math.ceil(q * len(fresh)) - failed - 1
        value = worst_first[rank] if rank >= 0 else weakest
        return value if snapshot.better(value, weakest) else weakest

    return _band([n for n in places if n < len(fresh)] + [len(fresh)], quantile)


def _band(places: list[int], quantile: Callable[[float], float]) -> Band:
    """Of the best of n draws: it is below x if all of them are."""
    tails = ((1 - COVERED) / 2, 0.5, (1 + COVERED) / 2)
    lines = [[quantile(q ** (1 / n)) for n in places] for q in tails]
    low = [min(a, b) for a, b in zip(lines[0], lines[2], strict=True)]
    high = [max(a, b) for a, b in zip(lines[0], lines[2], strict=True)]
    return Band(places, lines[1], low, high)


def at(band: Band, n: int) -> float:
    """Its middle at n, which lies within it."""
    return band.middle[min(bisect.bisect_left(band.n, n), len(band.n) - 1)]
