"""What the random-graph model predicts: bounds, approximations, and the three phases of a curve.

All of it follows from V and p, without a graph. docs/entigraph_theory.md derives it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.special import lambertw

from entigraph.laws.random_graph import mixture

REST = 1e-6  # levels further from the leaves hold a smaller share of the vertices than this


@dataclass(frozen=True)
class Model:
    vertices: int
    p: float

    @property
    def pairs(self) -> int:
        return self.vertices * (self.vertices - 1)

    @property
    def lam(self) -> float:
        """Relations that leave an entity, on average; a giant component needs more than 1."""
        return self.p * self.vertices

    @cached_property
    def rho(self) -> float:
        """The chance that a Poisson(lam) family dies out: smallest rho = exp(lam (rho - 1))."""
        return float(-lambertw(-self.lam * np.exp(-self.lam)).real / self.lam)

    @property
    def reachable(self) -> float:
        """C: the source's descendants and the target's ancestors both go on for ever."""
        return (1 - self.rho) ** 2

    @property
    def c_low(self) -> float:
        return 1 - 1 / self.pairs

    def c_high(self, epsilon: float) -> float:
        """No shortest path is much longer than log V / log lam, and a text teaches one."""
        longest = (1 + epsilon) * np.log(self.vertices) / np.log(self.lam)
        return float(1 - min(1.0, longest / self.pairs))

    def low(self, times: np.ndarray, epsilon: float) -> np.ndarray:
        return (1 - epsilon) * self._bound(self.c_low, times)

    def high(self, times: np.ndarray, epsilon: float) -> np.ndarray:
        return (1 + epsilon) * self._bound(self.c_high(epsilon), times)

    def _bound(self, c: float, times: np.ndarray) -> np.ndarray:
        return self.p + self.reachable * (1 - c ** np.asarray(times, float))

    def slack(self, times: np.ndarray, known: np.ndarray) -> float:
        """The least epsilon with which the bounds hold at all of these times."""
        least = max(0.0, float(np.max(1 - known / self.low(times, 0.0))))
        below, above = 0.0, 1.0
        while np.any(known > self.high(times, above)):
            above *= 2
        for _ in range(40):
            middle = (below + above) / 2
            holds = np.all(known <= self.high(times, middle))
            below, above = (below, middle) if holds else (middle, above)
        return max(least, above)

    @cached_property
    def branching(self) -> np.ndarray:
        """mu[k] for V to infinity: a vertex of a shortest-path tree lies l levels above the leaves
        with probability (lam - 1) / lam^(l+1), and has the offspring of l generations of a
        Poisson(lam) family. What has more than V descendants is counted at V.
        """
        levels = int(np.ceil(-np.log(REST) / np.log(self.lam)))
        shares = (self.lam - 1) / self.lam ** (np.arange(levels) + 1)
        return _families(shares, np.full(levels, self.lam), self.vertices)

    @cached_property
    def finite(self) -> np.ndarray:
        """mu[k] with the levels of a tree in V vertices, which fill up; the first level, the
        source's own relations, is known from the start and left out.
        """
        sizes = [1 / (1 - self.rho)]  # of the trees that do not die out, and those start faster
        left = self.vertices * (1.0 - 1 / self.vertices)
        while sizes[-1] > REST:
            sizes.append(left * -np.expm1(-self.p * sizes[-1]))
            left -= sizes[-1]
        level = np.array(sizes[2:])
        offspring = np.append(0.0, (level[1:] / level[:-1])[::-1])
        return _families(level[::-1] / level.sum(), offspring, self.vertices)

    def branching_curve(self, times: np.ndarray) -> np.ndarray:
        """p + C (1 - sum mu(k) (1 - k/pairs)^t)"""
        return self.p + self.reachable * mixture(self.branching, self.pairs, times)

    def finite_curve(self, times: np.ndarray) -> np.ndarray:
        """The same, with what is known already taken from what there is to learn."""
        return self.p + (self.reachable - self.p) * mixture(self.finite, self.pairs, times)


def _families(shares: np.ndarray, offspring: np.ndarray, most: int) -> np.ndarray:
    """Sizes of families, [k]: level 0 are the leaves; a member of level l has a Poisson number of
    children in level l - 1 with mean offspring[l], and `shares` of all families start there.
    """
    mixed = np.zeros(most + 1)
    size = np.zeros(most + 1)  # of a family that starts at this level
    size[1] = 1.0
    for level, share in enumerate(shares):
        if level:
            # Its generating function: s exp(mean (that of the children - 1)).
            children = offspring[level] * size
            children[0] = -offspring[level]
            size = np.append(0.0, _exp_series(children)[:-1])
        mixed += share * size
    mixed[most] += 1 - mixed.sum()
    return mixed


def _exp_series(series: np.ndarray) -> np.ndarray:
    """The power series exp(series), from y' = series' y."""
    slopes = series * np.arange(len(series))
    result = np.zeros_like(series)
    result[0] = np.exp(series[0])
    for n in range(1, len(series)):
        result[n] = slopes[1 : n + 1] @ result[n - 1 :: -1][:n] / n
    return result


class Phases(NamedTuple):
    """Linear up to `first` texts, then linear in their logarithm up to `second`, then flat."""

    first: int
    second: int
    spans: tuple[float, float, float]  # last by first number of texts of each part
    misfits: tuple[float, float, float]  # rms distance from its law, in shares of the part's gain

    @property
    def found(self) -> bool:
        """Each part lasts until twice as many texts at least, and follows its law to a tenth."""
        return min(self.spans) >= 2 and max(self.misfits) <= 0.1

    def record(self) -> dict[str, Any]:
        names = ("linear", "log_linear", "plateau")
        parts = {
            name: {"span": span, "misfit": misfit}
            for name, span, misfit in zip(names, self.spans, self.misfits, strict=True)
        }
        return {"first": self.first, "second": self.second, **parts, "found": self.found}


def phases(times: np.ndarray, known: np.ndarray) -> Phases:
    """Cuts a curve at log-spaced times in three, where gain = a t, gain = b + c log t and gain = d,
    each fitted by least squares, leave the least squared error together. All cuts are tried.
    """
    t, gain = np.asarray(times, float), np.asarray(known) - known[0]
    gain = gain / gain[-1]
    log, count = np.log(t), len(t)
    linear = np.cumsum(gain**2) - np.cumsum(t * gain) ** 2 / np.cumsum(t * t)
    ones, x, y, xx, xy, yy = (
        np.append(0.0, np.cumsum(v)) for v in (t * 0 + 1, log, gain, log * log, log * gain, gain**2)
    )

    def over(total: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return total[j] - total[i]

    i, j = np.triu_indices(count - 3, 3)  # parts [0, i), [i, j), [j, count), three points or more
    i, j = i[j - i >= 3], j[j - i >= 3]
    n = over(ones, i, j)
    sxx = over(xx, i, j) - over(x, i, j) ** 2 / n
    sxy = over(xy, i, j) - over(x, i, j) * over(y, i, j) / n
    straight = over(yy, i, j) - over(y, i, j) ** 2 / n - sxy**2 / sxx
    end = np.full_like(j, count)
    flat = over(yy, j, end) - over(y, j, end) ** 2 / over(ones, j, end)
    best = int(np.argmin(linear[i - 1] + straight + flat))
    a, b = int(i[best]), int(j[best])
    return Phases(
        int(times[a - 1]),
        int(times[b]),
        (float(t[a - 1] / t[0]), float(t[b] / t[a - 1]), float(t[-1] / t[b])),
        (
            _misfit(linear[a - 1] / a, gain[a - 1]),
            _misfit(straight[best] / (b - a), gain[b] - gain[a - 1]),
            _misfit(flat[best] / (count - b), gain[-1]),
        ),
    )


def _misfit(square: float, gain: float) -> float:
    return float(np.sqrt(max(0.0, square)) / gain) if gain > 0 else float("inf")
