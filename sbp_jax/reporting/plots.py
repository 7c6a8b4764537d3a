"""The same figures as PNGs, for slides and pages that show no SVG."""

import io
import warnings
from typing import Any

from sbp_jax.reporting import wording
from sbp_jax.reporting.figures import IN_PLACE, STYLES, Bars, Figure, Intervals, Lines
from sbp_jax.reporting.markup import clean

_MARKERS = {"circle": "o", "square": "s", "diamond": "D", "up": "^", "down": "v"}


def png(figure: Figure) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    # Names of arms are the user's: a "$" in them is no formula.
    quiet: Any = {"text.parse_math": False, "font.size": 10, "axes.spines.top": False,
             "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
             "axes.axisbelow": True}  # fmt: skip
    with matplotlib.rc_context(quiet), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font has not become boxes
        rows = len(figure.lines if isinstance(figure, Lines) else figure.rows)
        height = 4.6 if isinstance(figure, Lines) else 1.5 + 0.42 * rows
        canvas = Canvas(figsize=(9, height), layout="constrained")
        axes = canvas.add_subplot()
        axes.set_title(clean(figure.title), loc="left", fontsize=11)
        draw: Any = {Lines: _lines, Intervals: _intervals, Bars: _bars}[type(figure)]
        draw(figure, axes)
        written = io.BytesIO()
        canvas.savefig(written, format="png", dpi=150)
    return written.getvalue()


def _lines(figure: Lines, axes: Any) -> None:
    for line in figure.lines:
        style = STYLES[line.style]
        axes.plot(
            line.x, line.y, color=style.light, label=clean(line.label), markersize=3,
            marker=_MARKERS[style.marker], linestyle=(0, style.dash) if style.dash else "-",
        )  # fmt: skip
        if line.low:
            axes.fill_between(line.x, line.low, line.high, color=style.light, alpha=0.15, lw=0)
    if figure.top is not None:
        low = min(y for line in figure.lines for y in line.low or line.y)
        axes.set_ylim(low - 0.06 * (figure.top - low), figure.top)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=3.5)


def _intervals(figure: Intervals, axes: Any) -> None:
    for place, row in enumerate(figure.rows):
        style = STYLES[row.style]
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [place, place], color=style.light, lw=2)
        axes.plot(row.value, place, color=style.light, marker=_MARKERS[style.marker], markersize=7)
    for value in (0.0, 1.0):
        axes.axvline(value, color="#555555", lw=1)
    axes.xaxis.set_major_formatter(lambda value, _: wording.percent(value))
    labels = [
        f"{row.label}, in SBP's place" if row.group == IN_PLACE else row.label
        for row in figure.rows
    ]
    _rows(axes, labels)
    axes.set_xlabel(figure.x_label)


def _bars(figure: Bars, axes: Any) -> None:
    labelled: set[str] = set()
    most = max(sum(part.value for part in parts) for _, parts, _ in figure.rows)
    for place, (_, parts, end) in enumerate(figure.rows):
        before = 0.0
        for part in parts:
            known = part.label in labelled
            bar = axes.barh(place, part.value, left=before, height=0.7, edgecolor="white",
                            color=STYLES[part.style].light,
                            label=None if known else clean(part.label))  # fmt: skip
            if part.value > 0.15 * most:
                axes.bar_label(bar, [clean(part.text)], label_type="center", color="white", size=8)
            labelled.add(part.label)
            before += part.value
        axes.annotate(clean(end), (before, place), (5, 0), textcoords="offset points", va="center")
    _rows(axes, [label for label, _, _ in figure.rows])
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    axes.xaxis.set_visible(False)
    if len({part.style for _, parts, _ in figure.rows for part in parts}) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _rows(axes: Any, labels: list[str]) -> None:
    """The first on top."""
    axes.set_yticks(range(len(labels)), [clean(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
