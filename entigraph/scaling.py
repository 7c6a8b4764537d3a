"""Accuracy against synthetic tokens: how it grows, fitted by two laws, with 95% intervals.

    log-linear              y = a + b log x
    mixture of exponentials y = a - sum_i b_i r_i^x, all b_i >= 0, 0 < r_i < 1

Accuracy is in percent, tokens in millions, as in the paper, whose fit stands here as PAPER.

    points = Points(tokens, accuracy, answers, articles)  # or stderr, or neither
    laws = fit(points)
    plot(points, laws, Path("scaling.png"))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from entigraph.laws.exponentials import Search, mixture
from sbp_jax.errors import UserError
from sbp_jax.synthesis.figures import Z, wilson

MOST_TERMS = 3  # as in the paper


@dataclass(frozen=True)
class Points:
    """What was measured. Intervals are of the articles if there are answers, for questions of one
    article stand or fall together, or of given standard errors, or else of the residuals of each
    fit.
    """

    tokens: Sequence[float]  # millions
    accuracy: Sequence[float]  # percent
    # [points, questions]: 1 where it is right, the same questions
    answers: np.ndarray | None = None
    groups: Sequence[str] | None = None  # [questions]: their articles; without, each has its own
    stderr: Sequence[float] | None = None  # percent

    def __post_init__(self) -> None:
        x, y = self.x, self.y
        if x.ndim != 1 or x.shape != y.shape or len(x) < 3:
            raise UserError("scaling: needs three points or more, each with tokens and accuracy")
        if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y)) and np.all(x >= 0)):
            raise UserError("scaling: tokens and accuracies must be numbers, tokens not negative")
        if len(np.unique(x)) != len(x):
            raise UserError("scaling: two points have the same tokens; average them first")
        if self.answers is not None and np.shape(self.answers)[:1] != x.shape:
            raise UserError("scaling: answers must have a row for each point")
        if self.groups is not None and (
            self.answers is None or np.shape(self.groups) != np.shape(self.answers)[1:]
        ):
            raise UserError("scaling: groups must have an article for each question answered")
        if self.stderr is not None and np.shape(self.stderr) != x.shape:
            raise UserError("scaling: stderr must have a value for each point")

    @property
    def x(self) -> np.ndarray:
        return np.asarray(self.tokens, float)

    @property
    def y(self) -> np.ndarray:
        return np.asarray(self.accuracy, float)

    @cached_property
    def by_group(self) -> tuple[np.ndarray, np.ndarray]:
        """[points, groups], [groups]: answers that are right, and questions."""
        right = np.asarray(self.answers, float)
        if self.groups is None:
            return right, np.ones(right.shape[1])
        names, place = np.unique(np.asarray(self.groups), return_inverse=True)
        count = len(names)
        return np.stack([np.bincount(place, row, count) for row in right]), np.bincount(place)

    @cached_property
    def spread(self) -> np.ndarray | None:
        """Standard errors of the accuracies, in percent, to first order. Where groups do not differ
        there is nothing to go by; then they are what Wilson's interval, of as many questions as
        there are groups, has on its wider side.
        """
        if self.answers is None:
            return None if self.stderr is None else np.asarray(self.stderr, float)
        right, asked = self.by_group
        share, count = right.sum(axis=1) / asked.sum(), len(asked)
        off = (right - share[:, None] * asked) / asked.mean()
        found = np.sqrt((off**2).sum(axis=1) / (count * max(1, count - 1)))
        wider = [max(p - low, high - p) for p in share for low, high in [wilson(float(p), count)]]
        return 100 * np.where(self.alike, np.array(wider) / Z, found)

    @cached_property
    def alike(self) -> np.ndarray:
        """[points]: whether all groups have the same share of right answers."""
        shares = self.by_group[0] / self.by_group[1]
        return np.ptp(shares, axis=1) < 1e-12

    @property
    def intervals(self) -> tuple[np.ndarray, np.ndarray] | None:
        """95%, of the accuracies, in percent."""
        if self.spread is None:
            return None
        around = Z * self.spread
        return np.clip(self.y - around, 0, 100), np.clip(self.y + around, 0, 100)

    def resampled(
        self, fitted: np.ndarray, free: int, count: int, random: np.random.Generator
    ) -> np.ndarray:
        """[count, points]: accuracies as another measurement might have had them; the fit, of
        `free` parameters, is for residuals alone.
        """
        if self.answers is not None:
            right, asked = self.by_group
            groups = len(asked)
            drawn = random.multinomial(groups, np.full(groups, 1 / groups), size=count)
            # The same questions at all points: what makes a sample of them hard shifts all alike.
            shares = drawn @ right.T / (drawn @ asked)[:, None]
            again = self.y + 100 * (shares - right.sum(axis=1) / asked.sum())
            return np.where(self.alike, self._noisy(random, count), again)
        if self.stderr is not None:
            return self._noisy(random, count)
        residuals = (self.y - fitted) * np.sqrt(len(self.y) / max(1, len(self.y) - free))
        return fitted + random.choice(residuals, (count, len(self.y)))

    def _noisy(self, random: np.random.Generator, count: int) -> np.ndarray:
        noise = self.spread * random.standard_normal((count, len(self.y)))  # type: ignore[operator]
        return self.y + noise if self.answers is None else np.clip(self.y + noise, 0, 100)


class Estimate(NamedTuple):
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Law:
    """A fitted law. `drawn` are the same parameters fitted to resampled points."""

    name: str
    names: tuple[str, ...]
    parameters: np.ndarray
    drawn: np.ndarray  # [resamples, parameters]
    rmse: float  # percent
    aicc: float | None  # Akaike's criterion for few points, the lower the better; None: too few
    formula: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def __call__(self, x: Any) -> np.ndarray:
        return self.formula(self.parameters, np.asarray(x, float))

    def band(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        curves = np.stack([self.formula(p, np.asarray(x, float)) for p in self.drawn])
        low, high = np.quantile(curves, [0.025, 0.975], axis=0)
        return low, high

    @property
    def estimates(self) -> dict[str, Estimate]:
        low, high = np.quantile(self.drawn, [0.025, 0.975], axis=0)
        rows = zip(self.names, self.parameters, low, high, strict=True)
        return {name: Estimate(*map(float, row)) for name, *row in rows}

    def record(self) -> dict[str, Any]:
        estimates = {name: estimate._asdict() for name, estimate in self.estimates.items()}
        return {"law": self.name, "parameters": estimates, "rmse": self.rmse, "aicc": self.aicc}


def log_linear(parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
    a, b = parameters
    with np.errstate(divide="ignore"):
        return a + b * np.log(x)


PAPER = np.array([64.5456, 13.8352, 0.9989, 8.4705, 0.8961, 3.932, 0.0546])


def fit(
    points: Points, terms: int | None = None, resamples: int = 500, seed: int = 0
) -> dict[str, Law]:
    """Both laws, "log_linear" and "mixture"; the latter with up to three terms, as many as leave
    one point more than it has parameters. Of three points there is the first alone.
    """
    most = (len(points.x) - 2) // 2
    if terms is not None and not 1 <= terms <= most:
        raise UserError(
            f"scaling: {len(points.x)} points do not determine {terms} terms; a term takes two "
            "points, and two more are needed"
        )
    laws = {"log_linear": _fit_log_linear(points, resamples, _random(seed, 0))}
    terms = min(most, MOST_TERMS) if terms is None else terms
    if terms:
        laws["mixture"] = _fit_mixture(points, terms, resamples, _random(seed, 1))
    return laws


def _random(seed: int, law: int) -> np.random.Generator:
    return np.random.default_rng([seed, law])


def _fit_log_linear(points: Points, resamples: int, random: np.random.Generator) -> Law:
    some = points.x > 0  # the model before has no place on this line
    if some.sum() < 2:
        raise UserError("scaling: needs two points or more with tokens above 0")
    design = np.stack([np.ones(some.sum()), np.log(points.x[some])], axis=1)
    solve = np.linalg.pinv(design)
    parameters = solve @ points.y[some]
    fitted = points.y.copy()
    fitted[some] = design @ parameters
    drawn = points.resampled(fitted, 2, resamples, random)[:, some] @ solve.T
    errors = _errors((points.y - fitted)[some], 2)
    return Law("log-linear", ("a", "b"), parameters, drawn, *errors, log_linear)


def _fit_mixture(points: Points, terms: int, resamples: int, random: np.random.Generator) -> Law:
    search = Search(points.x, terms)
    found = search.best(points.y[None])
    parameters = search.parameters(found)[0]
    fitted = mixture(parameters, points.x)
    free = 1 + 2 * terms
    again = points.resampled(fitted, free, resamples, random)
    drawn = search.parameters(search.best(again, found[0]))
    names = ("a", *(f"{letter}{i + 1}" for i in range(terms) for letter in "br"))
    return Law("mixture of exponentials", names, parameters, drawn,
               *_errors(points.y - fitted, free), mixture)  # fmt: skip


def _errors(residuals: np.ndarray, parameters: int) -> tuple[float, float | None]:
    """Root mean square, and AICc, which counts the variance as a parameter."""
    n, k = len(residuals), parameters + 1
    square = float(np.mean(residuals**2))
    if n - k - 1 <= 0:
        return square**0.5, None
    return square**0.5, float(n * np.log(max(square, 1e-12)) + 2 * k * n / (n - k - 1))


def plot(
    points: Points,
    laws: dict[str, Law],
    path: Path,
    title: str = "Accuracy against synthetic tokens",
    paper: bool = True,
    chance: float | None = 25.0,
) -> None:
    """Points with 95% intervals, the laws with bands, and the paper's curve, as a PNG."""
    from entigraph.laws.drawing import picture

    x = points.x
    above = x[x > 0]
    start = above.min() / 3 if len(above) < len(x) else above.min()
    grid = np.geomspace(start, above.max() * 1.15, 200)
    with picture(path, title, "synthetic tokens, millions", "accuracy, percent") as axes:
        if paper:
            axes.plot(grid, mixture(PAPER, grid), color="#62676d", ls=(0, (2, 3)),
                      label="the paper's fit (8B, QuALITY)")  # fmt: skip
        colours = {"log_linear": "#a85200", "mixture": "#1f5fbf"}
        for name, law in laws.items():
            axes.plot(grid, law(grid), color=colours[name], label=f"{law.name}, rms {law.rmse:.2f}")
            axes.fill_between(grid, *law.band(grid), color=colours[name], alpha=0.15, lw=0)
        error = None
        if points.intervals is not None:
            low, high = points.intervals
            error = np.stack([points.y - low, high - points.y])[:, x > 0]
        axes.errorbar(above, points.y[x > 0], error, fmt="o", color="#000000", ms=4, capsize=3,
                      label="measured")  # fmt: skip
        for before in points.y[x == 0]:
            axes.axhline(before, color="#000000", lw=0.8, ls="--", label="no synthetic tokens")
        if chance is not None:
            axes.axhline(chance, color="#b42318", lw=0.8, ls=":", label="chance")
        axes.set(xscale="log", xlim=(grid[0], grid[-1]))
