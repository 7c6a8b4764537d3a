"""Numbers and names as a reader wants them. What is missing or not finite is a dash."""

import math
from collections.abc import Sequence
from typing import Any

DASH = "\N{EN DASH}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Of each arm a name, and what distinguishes it.
ARMS = {
    "baseline": ("Repetition", "the documents again and again"),
    "tuned_baseline": ("Tuned repetition", "with the best dropout and weight decay of a grid"),
    "oracle": ("Oracle", "unique real documents instead of repeated ones"),
    "tuned_oracle": ("Tuned oracle", "with the best dropout and weight decay of the grid"),
    "sbp": ("SBP", "its own documents in place of a part of the repetition"),
    "tuned_sbp": ("Tuned SBP", "with the best dropout and weight decay of the grid"),
    "random_pairs": ("Random pairs", "control: a synthesizer tuned on any two documents"),
    "unconditional": ("Unconditional", "control: samples of the checkpoint, without a document"),
    "longer_baseline": ("Longer repetition", "control: all of SBP's FLOPs spent on repetition"),
}
STAGES = {
    "pretrain": "Pretraining",
    "pair": "Pairing",
    "tune": "Tuning",
    "synthesize": "Synthesis",
    "evaluate": "Evaluation",
}


def arm(name: str) -> str:
    if name not in ARMS and (parts := name.rpartition("_round"))[1]:
        return f"{arm(parts[0])}, round {parts[2]}"
    return ARMS[name][0] if name in ARMS else words(name)


def words(name: str) -> str:
    """Of an identifier; of anything else, itself."""
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def number(value: Any) -> float | None:
    """A number that can be drawn, or None: its square is finite as well."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e100 else None


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample, of two values at least."""
    middle = mean(values)
    if middle is None or len(values) < 2:
        return None
    return math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1))


def signed(text: str) -> str:
    """With a minus as wide as a plus."""
    return text.replace("-", "\N{MINUS SIGN}")


def loss(value: float | None) -> str:
    return DASH if value is None else signed(f"{value:.4f}")


def figure(value: float | None) -> str:
    """Three digits, whatever the size."""
    if value is None:
        return DASH
    if value and not 1e-3 <= abs(value) < 1e6:
        return power(value)
    return signed(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}")


def percent(value: float | None, digits: int = 0) -> str:
    if value is None:
        return DASH
    if abs(value) > 100:
        return f"{figure(100 * value)}%"
    text = f"{100 * value:.{digits}f}"
    return signed("0" if text == "-0" else text) + "%"


def count(value: float | None) -> str:
    """To the last one below a million, and 4.1M above it."""
    if value is None:
        return DASH
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= 0.9995 * size:
            return signed(f"{value / size:.3g}{unit}") if abs(value) < 1e15 else power(value)
    return signed(f"{value:,.0f}")


def power(value: float | None) -> str:
    """3.41 × 10¹⁴"""
    if value is None:
        return DASH
    if not value:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{signed(mantissa)} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return DASH
    if seconds < 1:
        return f"{seconds:.1g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 86_400:.0f} days"


def plus_minus(value: float | None, spread: float | None, form: Any = loss) -> str:
    return form(value) if value is None or spread is None else f"{form(value)} ± {form(spread)}"


def interval(low: float | None, high: float | None) -> str:
    return f"{percent(low)} to {percent(high)}"
