"""Whether an idea is better than the baseline, or the luckiest of many.

The score by which a search picks its best is no evidence: the best of 256 ideas that change nothing
is far above the baseline. So the best few run again, on another split and with fresh seeds, and
only these new scores are tested; what passes runs on the final split, whose scores say by how much.

Assumed: the scores of one idea on one split are independent draws (every run has a seed of its own)
and, where an idea changes nothing, draws of the baseline's distribution. A p-value is the larger of
two: the exact permutation test of the difference of means, which needs nothing else, and Welch's t,
which is wary of an idea that only spreads more. `p` is of one idea alone; Holm's step corrects for
the number that was run again on the selection split; the final split tests one, and needs none.
That many more were tried in the search does not matter, for none of their scores is used.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import special, stats

ALPHA = 0.05
_EXACT = 20_000  # permutations; beyond, that many at random
_SAME = 1e-12  # relative: scores that differ by rounding only


class Interval(NamedTuple):
    low: float
    mean: float
    high: float


class Noise(NamedTuple):
    """The floor below which a difference of two single runs says nothing."""

    mean: float
    sd: float
    sd_high: float  # the upper end of its 95% interval
    runs: int

    def interval(self, scores: Sequence[float], level: float = 0.95) -> Interval:
        """Of an idea's mean, if it is as noisy as the baseline: one run has no spread to show."""
        mean = float(np.mean(scores))
        if self.runs < 2:
            return Interval(-math.inf, mean, math.inf)
        half = stats.t.ppf((1 + level) / 2, self.runs - 1) * self.sd / math.sqrt(len(scores))
        return Interval(mean - half, mean, mean + half)


class Tested(NamedTuple):
    idea: int
    effect: Interval  # of the idea's mean less the baseline's, positive where better
    p: float
    corrected: float  # for the number tested
    runs: int


class Decision(NamedTuple):
    promoted: int | None
    selection: tuple[Tested, ...]  # best first
    final: Tested | None
    words: str  # one line


def noise(scores: Sequence[float]) -> Noise:
    """From repeated runs of the baseline."""
    runs = len(scores)
    mean = float(np.mean(scores))
    if runs < 2:
        return Noise(mean, math.inf, math.inf, runs)
    sd = float(np.std(scores, ddof=1))
    high = sd * math.sqrt((runs - 1) / stats.chi2.ppf(0.025, runs - 1))
    return Noise(mean, sd, high, runs)


def p_value(idea: Sequence[float], baseline: Sequence[float], sign: int) -> float:
    """That an idea no better than the baseline (sign 1: more is better) scores so well."""
    a, b = sign * np.asarray(idea, float), sign * np.asarray(baseline, float)
    return max(_permuted(a, b), _welch(a, b))


def effect(
    idea: Sequence[float], baseline: Sequence[float], sign: int, level: float = 0.95
) -> Interval:
    """How much better, with Welch's interval."""
    a, b = sign * np.asarray(idea, float), sign * np.asarray(baseline, float)
    mean = float(a.mean() - b.mean())
    error, freedom = _standard_error(a, b)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error if error else 0.0
    return Interval(mean - half, mean, mean + half)


def holm(ps: Sequence[float]) -> list[float]:
    """Each corrected for the number of them: the chance of one false alarm or more stays below."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected = [0.0] * len(ps)
    least = 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = least
    return corrected


def baseline_runs(seeds: int, tested: int, alpha: float = ALPHA) -> int:
    """The fewest runs of the baseline with which `tested` ideas of `seeds` runs each can pass: the
    exact test has no p-value below one in the number of ways to choose the idea's runs of all.
    """
    runs = max(seeds, 2)
    while tested / math.comb(runs + seeds, seeds) > alpha:
        runs += 1
    return runs


def detectable(sd: float, seeds: int, tested: int, alpha: float = ALPHA) -> float:
    """About how much better an idea must be to pass the selection split half of the time."""
    runs = baseline_runs(seeds, tested, alpha)
    quantile = float(stats.t.isf(alpha / tested, seeds + runs - 2))
    return quantile * sd * math.sqrt(1 / seeds + 1 / runs)


def select(
    scores: Mapping[int, Sequence[float]],
    baseline: Sequence[float],
    sign: int,
    seeds: int,
) -> tuple[Tested, ...]:
    """The ideas that were run again, tested on these runs; best first.

    One that failed in some of its runs (fewer scores than `seeds`) has shown nothing, however good
    the rest are: p = 1. It still counts as tested.
    """
    ps = {
        idea: p_value(values, baseline, sign) if len(values) >= seeds else 1.0
        for idea, values in scores.items()
    }
    corrected = dict(zip(ps, holm(list(ps.values())), strict=True))
    tested = [
        Tested(
            idea,
            effect(values, baseline, sign) if values else Interval(-math.inf, math.nan, math.inf),
            ps[idea],
            corrected[idea],
            len(values),
        )
        for idea, values in scores.items()
    ]
    return tuple(sorted(tested, key=lambda t: (t.corrected, -t.effect.mean, t.idea)))


def champion(selection: Sequence[Tested], alpha: float = ALPHA) -> int | None:
    """The one that is to run on the final split: of those that passed, the best."""
    passed = [t for t in selection if t.corrected <= alpha]
    return max(passed, key=lambda t: t.effect.mean).idea if passed else None


def decide(
    selection: Sequence[Tested],
    final: Sequence[float],
    final_baseline: Sequence[float],
    sign: int,
    seeds: int,
    alpha: float = ALPHA,
) -> Decision:
    """`final`: the champion's scores on the final split; empty if there is no champion."""
    best = champion(selection, alpha)
    if best is None:
        count = len(selection)
        return Decision(None, tuple(selection), None, f"none of {count} was significant")
    tested = select({best: final}, final_baseline, sign, seeds)[0]
    passed = tested.corrected <= alpha
    low, mean, high = tested.effect
    words = f"idea {best}: better by {mean:.4g} ({low:.4g} to {high:.4g}), p = {tested.p:.2g}"
    if not passed:
        words = (
            f"idea {best} passed the selection split, but not the final one (p = {tested.p:.2g})"
        )
    return Decision(best if passed else None, tuple(selection), tested, words)


def _permuted(a: np.ndarray, b: np.ndarray) -> float:
    """One-sided: how many of all ways to say which runs were the idea's give it so high a sum."""
    pooled = np.concatenate([a, b])
    n, size = len(a), len(pooled)
    sums = pooled[_ways(size, n)].sum(1)
    own = int(math.comb(size, n) > _EXACT)  # where it is not sure to be among those drawn
    at_least = np.count_nonzero(sums >= a.sum() - n * _slack(a, b))
    return float((at_least + own) / (len(sums) + own))


@functools.lru_cache(maxsize=64)
def _ways(size: int, n: int) -> np.ndarray:
    if math.comb(size, n) <= _EXACT:
        return np.array(list(combinations(range(size), n)))
    draw = np.random.default_rng(0)
    return draw.permuted(np.tile(np.arange(size), (_EXACT, 1)), axis=1)[:, :n]


def _slack(a: np.ndarray, b: np.ndarray) -> float:
    return _SAME * float(max(np.abs(a).max(), np.abs(b).max()))


def _welch(a: np.ndarray, b: np.ndarray) -> float:
    error, freedom = _standard_error(a, b)
    difference = float(a.mean() - b.mean())
    slack = _slack(a, b)
    if error <= slack:  # no noise at all: any difference is real
        return 0.0 if difference > slack else 1.0
    return float(special.stdtr(freedom, -difference / error))


def _standard_error(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Of the difference of means, and Welch's degrees of freedom."""
    if min(len(a), len(b)) < 2:
        return math.inf, 1.0
    parts = [float(x.var(ddof=1)) / len(x) for x in (a, b)]
    total = sum(parts)
    if total == 0:
        return 0.0, 1.0
    shares = [(part / total) ** 2 / (len(x) - 1) for part, x in zip(parts, (a, b), strict=True)]
    return math.sqrt(total), 1 / sum(shares)
