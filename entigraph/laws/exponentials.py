"""Least-squares fits of mixtures of exponentials, y = a - sum_i b_i r_i^x, many curves at once.

Given r, the rest is linear: so all combinations of r on a grid are tried, and the best refined. A
start that is guessed ends in a local minimum as soon as two terms have similar rates.
"""

import itertools

import numpy as np
from scipy.special import expit, logit

GRID = 28  # rates that are tried for each term
REFINED = 4  # of the best combinations, when there is no earlier fit to begin with
STEPS = 400  # at most, of a refinement


def mixture(parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Parameters are a, b_1, r_1, b_2, r_2, ..."""
    a, b, r = parameters[0], parameters[1::2], parameters[2::2]
    return a - (r ** np.asarray(x)[..., None]) @ b


class Search:
    """Rates are -log r. What the points can tell apart lies between a mixture that is straight over
    all of them and one that is over before the second. Refined are the unbounded coordinates u of
    a in (0, 100), b > 0 and of the rates between these two ends, many fits at once.
    """

    def __init__(self, x: np.ndarray, terms: int):
        self.x, self.terms = x, terms
        scale = np.sort(x[x > 0])
        self.low, self.high = np.log(0.05 / scale[-1]), np.log(20.0 / scale[0])
        grid = np.linspace(self.low, self.high, GRID + 2)[1:-1]
        self.starts = np.array(list(itertools.combinations(grid, terms)))
        decays = -np.exp(-np.exp(self.starts)[:, None, :] * x[:, None])
        self.designs = np.concatenate([np.ones((*decays.shape[:2], 1)), decays], axis=2)
        self.solvers = np.linalg.pinv(self.designs)  # [starts, 1 + terms, points]

    def best(self, y: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """[fits, parameters] for y [fits, points]: from the grid, and from `known` if given."""
        count = REFINED if known is None else 1
        starts = np.stack([self._starts(curve, count) for curve in y])  # [fits, count, coordinates]
        if known is not None:
            again = np.broadcast_to(known, (len(y), 1, len(known)))
            starts = np.concatenate([starts, again], axis=1)
        each = starts.shape[1]
        found, errors = self._refined(
            np.repeat(y, each, axis=0), starts.reshape(-1, starts.shape[2])
        )
        pick = np.arange(len(y)) * each + errors.reshape(-1, each).argmin(axis=1)
        return found[pick]

    def parameters(self, u: np.ndarray) -> np.ndarray:
        a, b, rates = self._values(u)
        order = np.argsort(rates, axis=1)
        result = np.empty_like(u)
        result[:, 0] = a
        result[:, 1::2] = np.take_along_axis(b, order, axis=1)
        result[:, 2::2] = np.exp(-np.take_along_axis(rates, order, axis=1))
        return result

    def _starts(self, y: np.ndarray, count: int) -> np.ndarray:
        weights = self.solvers @ y
        weights[:, 0] = np.clip(weights[:, 0], 1.0, 99.0)
        weights[:, 1:] = np.clip(weights[:, 1:], 1e-3, 99.0)
        errors = np.sum((np.einsum("spk,sk->sp", self.designs, weights) - y) ** 2, axis=1)
        some = np.argsort(errors, kind="stable")[:count]
        share = (self.starts[some] - self.low) / (self.high - self.low)
        return np.concatenate(
            [logit(weights[some, :1] / 100), np.log(weights[some, 1:]), logit(share)], axis=1
        )

    def _values(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        width = self.high - self.low
        rates = np.exp(self.low + width * expit(u[:, 1 + self.terms :]))
        return 100 * expit(u[:, 0]), np.exp(u[:, 1 : 1 + self.terms]), rates

    def _curves(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[fits, points] and its derivatives [fits, points, coordinates]."""
        a, b, rates = self._values(u)
        parts = b[:, None] * np.exp(-rates[:, None] * self.x[:, None])
        share = expit(u[:, 1 + self.terms :])
        by_rate = (rates * (self.high - self.low) * share * (1 - share))[:, None] * self.x[:, None]
        by_a = np.broadcast_to((a * (1 - a / 100))[:, None, None], (*parts.shape[:2], 1))
        return a[:, None] - parts.sum(axis=2), np.concatenate(
            [by_a, -parts, parts * by_rate], axis=2
        )

    def _refined(self, y: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Levenberg and Marquardt's steps for each fit, until they gain nothing more."""
        u, going = u.copy(), np.arange(len(y))
        damping, errors = np.full(len(y), 1e-2), np.full(len(y), np.inf)
        for _ in range(STEPS):
            curves, slopes = self._curves(u[going])
            missed = y[going] - curves
            errors[going] = np.sum(missed**2, axis=1)
            square = np.einsum("npi,npj->nij", slopes, slopes)
            diagonal = np.einsum("nii->ni", square)
            diagonal += damping[going, None] * diagonal + 1e-14
            step = np.linalg.solve(square, np.einsum("npi,np->ni", slopes, missed)[..., None])[
                ..., 0
            ]
            new = np.clip(u[going] + np.clip(step, -2, 2), -30, 30)
            after = np.sum((y[going] - self._curves(new)[0]) ** 2, axis=1)
            better = after < errors[going]
            gained = errors[going] - after
            u[going[better]] = new[better]
            damping[going] *= np.where(better, 0.3, 5.0)
            over = np.where(better, gained < 1e-9 * after + 1e-18, damping[going] > 1e8)
            errors[going[better]] = after[better]
            going = going[~over]
            if not len(going):
                break
        return u, errors
