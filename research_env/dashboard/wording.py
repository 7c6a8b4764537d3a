"""Scores, in the same words all over the page."""

from sbp_jax.reporting import wording

DIGITS = 5  # where the noise does not say how many decimals mean anything


def score(value: float | None, decimals: int | None = None) -> str:
    if value is None:
        return wording.DASH
    if decimals is None or decimals > 9 or abs(value) >= 1e9:
        written = f"{value:.{DIGITS}g}"
        return wording.power(value) if "e" in written else wording.signed(written)
    written = f"{value:.{decimals}f}"
    return wording.signed(written.removeprefix("-") if float(written) == 0 else written)
