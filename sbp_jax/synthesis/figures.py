"""Figures of documents, each with its error: plain numbers, as they stand in a record.

Shares have Wilson's 95% interval; means, and shares of what documents have several of, that of
their standard error over documents.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
Z = 1.96


def share(holds: np.ndarray) -> dict[str, Any]:
    """Of documents: with Wilson's interval, which has a width where none or all of them do."""
    n = len(holds)
    if not n:
        return _figure(None, None, None, None, 0)
    p = float(np.mean(holds))
    return _figure(p, math.sqrt(p * (1 - p) / n), *wilson(p, n), n)


def wilson(p: float, n: int) -> tuple[float, float]:
    """The 95% interval of a share."""
    z = Z
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean(values: Iterable[float], quantiles: bool = False) -> dict[str, Any]:
    array = np.array(list(values), float)
    figure = ratio(array, np.ones(len(array)))
    if quantiles and len(array):
        at = np.quantile(array, QUANTILES).tolist()
        figure["quantiles"] = {f"{q:g}": x for q, x in zip(QUANTILES, at, strict=True)}
    return figure


def ratio(parts: np.ndarray, wholes: np.ndarray) -> dict[str, Any]:
    """Sum of parts over sum of wholes, a part and a whole for each document."""
    n, whole = len(parts), float(np.sum(wholes))
    if not whole:
        return _figure(None, None, None, None, n)
    value = float(np.sum(parts)) / whole
    error = None
    if n > 1:
        residuals = np.asarray(parts) - value * np.asarray(wholes)
        error = math.sqrt(float(residuals @ residuals) * n / (n - 1)) / whole
    half = Z * (error or 0.0)
    return _figure(value, error, value - half, value + half, n)


def _figure(
    value: float | None, stderr: float | None, low: float | None, high: float | None, count: int
) -> dict[str, Any]:
    return {"value": value, "stderr": stderr, "low": low, "high": high, "documents": count}
