"""The best so far, over the ideas that ended: drawn once for a page and once for a phone."""

from collections.abc import Iterator
from itertools import pairwise

from research_env.dashboard import plain
from research_env.dashboard.comparisons import COVERED, Band, Comparison
from research_env.dashboard.snapshot import Row, Snapshot
from research_env.dashboard.wording import score
from sbp_jax.reporting import wording
from sbp_jax.reporting.charts import (
    LETTER,
    NARROW,
    WIDE,
    Scale,
    end_labels,
    legend,
    rule,
    svg,
    text,
    tick_labels,
    ticks,
)
from sbp_jax.reporting.figures import STYLES, Line, Lines
from sbp_jax.reporting.markup import Markup, tag

BEST, BASELINE, FRESH, LUCK = 0, 1, 5, 6  # numbers in STYLES
MOST_DOTS, MOST_STEPS = 3000, 80


def chart(snapshot: Snapshot, compared: Comparison) -> Markup | None:
    if not compared.ended:
        return None
    lines = _lines(compared)
    if not lines:
        return tag("p", "No idea has a score yet.", class_="caveat")
    metric = plain.line(snapshot.meta.get("metric") or "score", 60)
    better = "higher is better" if snapshot.maximize else "lower is better"
    figure = Lines("Best so far", "ideas that ended", f"{metric}, {better}", lines)
    return tag(
        "figure",
        _draw(figure, snapshot, compared, WIDE, "wide"),
        _draw(figure, snapshot, compared, NARROW, "narrow"),
        legend(figure),
        tag("figcaption", _note(compared)),
        class_="chart",
    )


def _note(compared: Comparison) -> str:
    said = ["Each dot is an idea's score on the search split; marks below are ideas that failed."]
    sure = f"{COVERED:.0%}"
    if compared.error:
        said.append(f"The band around the best is {sure} of the noise of one score.")
    if compared.luck:
        said.append(
            "Luck alone: the best of as many ideas that change nothing; a best inside its band "
            f"({sure}) shows nothing yet."
        )
    if compared.best_of_n:
        said.append(
            "Best of n: the best of as many ideas drawn from this search's own fresh ones, which "
            "is what it would have found without learning, drawn as far as there are fresh ones."
        )
    return " ".join(said)


def _lines(compared: Comparison) -> list[Line]:
    n = len(compared.ended)
    lines = []
    if steps := _staircase(compared):
        x, y = [a for a, _ in steps], [b for _, b in steps]
        error = compared.error
        low, high = ([b + sign * error for b in y] if error else [] for sign in (-1, 1))
        lines.append(Line("best so far", BEST, x, y, low, high))
    for name, style, band in (
        ("best of n", FRESH, compared.best_of_n),
        ("luck alone", LUCK, compared.luck),
    ):
        if band:
            lines.append(_band(name, style, band))
    if compared.baseline is not None:
        spread = compared.error or 0.0
        ends = [0.0, float(n)]
        low, high = ([compared.baseline + s * spread] * 2 if spread else [] for s in (-1, 1))
        lines.append(Line("baseline", BASELINE, ends, [compared.baseline] * 2, low, high))
    return lines


def _band(name: str, style: int, band: Band) -> Line:
    return Line(name, style, [float(n) for n in band.n], band.middle, band.low, band.high)


def _staircase(compared: Comparison) -> list[tuple[float, float]]:
    """Level from one improvement to the next."""
    marks = [(float(step.n), step.score) for step in compared.steps]
    if compared.baseline is not None:
        marks.insert(0, (0.0, compared.baseline))
    if not marks:
        return []
    corners = [marks[0]]
    for (_, before), (n, after) in pairwise(marks):
        corners += [(n, before), (n, after)]
    return [*corners, (float(len(compared.ended)), marks[-1][1])]


def _limits(lines: list[Line], scores: list[float], maximize: bool) -> tuple[float, float]:
    """Room for the curves; of the ideas that are worse, what is as near as the best is far."""
    every = [value for line in lines[:1] for value in (*line.y, *line.low, *line.high)]
    every += [value for line in lines[1:] for value in line.y]
    low, high = min(every), max(every)
    span = (high - low) or abs(high) * 0.05 or 1.0
    if scores:
        if maximize:
            low, high = max(min(low, *scores), low - span), max(high, *scores)
        else:
            low, high = min(low, *scores), min(max(high, *scores), high + span)
    pad = 0.05 * (high - low) or span
    return low - pad, high + pad


def _draw(
    figure: Lines, snapshot: Snapshot, compared: Comparison, width: int, class_: str
) -> Markup:
    wide = width == WIDE
    longest = max(len(line.label) for line in figure.lines)
    left, right = 58.0, width - (30 + LETTER * longest if wide else 12.0)
    top, bottom = 26.0, 340.0 if wide else 250.0
    scores = [row.score for row in compared.ended if row.score is not None]
    low, high = _limits(figure.lines, scores, snapshot.maximize)
    x = Scale(0, max(1, len(compared.ended)), left, right)
    y = Scale(low, high, bottom - 12, top)
    drawn: list[Markup] = [text(0, 12, figure.y_label, "small")]
    marks = ticks(low, high, 6 if wide else 5)
    for value, said in zip(marks, tick_labels(marks), strict=True):
        drawn.append(rule(left, y(value), right, y(value), "grid"))
        drawn.append(text(left - 8, y(value) + 4, said, "small", "end"))
    drawn.append(rule(left, bottom, right, bottom, "axis"))
    for value in (v for v in ticks(x.low, x.high, 8 if wide else 4) if v == int(v)):
        drawn.append(rule(x(value), bottom, x(value), bottom + 4, "axis"))
        drawn.append(text(x(value), bottom + 18, wording.count(value), "small", "middle"))
    drawn.append(text((left + right) / 2, bottom + 38, figure.x_label, "small", "middle"))
    inside = [
        *_bands(figure.lines, x, y),
        _dots(compared.ended, x, y),
        *_curves(figure.lines, x, y),
    ]
    # An SVG in the SVG clips what lies beyond, and needs no id.
    box = dict(x=left - 6, y=top, width=right - left + 12, height=bottom - top)
    view = " ".join(f"{box[key]:.2f}" for key in ("x", "y", "width", "height"))
    drawn.append(tag("svg", inside, **box, viewBox=view, preserveAspectRatio="none"))
    drawn.append(_failures(compared.ended, x, bottom))
    drawn += _steps(compared, snapshot, x, y)
    if wide:
        drawn += end_labels(figure.lines, x, y, right + 12, bottom)
    return svg(
        width,
        bottom + 46,
        f"{figure.title}. {_said(figure, compared.decimals)}",
        *drawn,
        class_=class_,
    )


def _said(figure: Lines, decimals: int | None) -> str:
    ends = (f"{line.label}: {score(line.y[-1], decimals)}" for line in figure.lines)
    return f"{figure.y_label}. {'; '.join(ends)}."


def _bands(lines: list[Line], x: Scale, y: Scale) -> Iterator[Markup]:
    for line in reversed(lines):
        if line.low:
            edge = [*zip(line.x, line.high, strict=True)]
            edge += reversed([*zip(line.x, line.low, strict=True)])
            points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in edge)
            yield tag("polygon", points=points, fill=f"var(--c{line.style})", class_="band")


def _curves(lines: list[Line], x: Scale, y: Scale) -> Iterator[Markup]:
    for line in reversed(lines):  # the best so far lies on top
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(line.x, line.y, strict=True))
        dash = ",".join(map(str, STYLES[line.style].dash)) or None
        yield tag("polyline", points=points, stroke=f"var(--c{line.style})",
                  stroke_dasharray=dash, class_="line")  # fmt: skip


def _dots(ended: list[Row], x: Scale, y: Scale) -> Markup:
    """All in one path, for there may be ten thousand: points of no length with round ends."""
    ran = [(n, row.score) for n, row in enumerate(ended, 1) if row.score is not None]
    every = -(-len(ran) // MOST_DOTS) or 1
    path = "".join(f"M{x(n):.1f} {y(s):.1f}h0" for n, s in ran[::every] if y.low <= s <= y.high)
    return tag("path", d=path or "M0 0", class_="dots few" if len(ran) < 400 else "dots")


def _failures(ended: list[Row], x: Scale, bottom: float) -> Markup:
    failed = sorted({round(x(n), 1) for n, row in enumerate(ended, 1) if row.score is None})
    return tag("path", d="".join(f"M{at} {bottom - 7}v6" for at in failed) or "M0 0", class_="rug")


def _steps(compared: Comparison, snapshot: Snapshot, x: Scale, y: Scale) -> Iterator[Markup]:
    """Every improvement leads to its idea; of very many, the large ones and the last."""
    before = [compared.baseline, *(step.score for step in compared.steps)]
    gains = {
        step.n: abs(step.score - (last if last is not None else step.score))
        for last, step in zip(before, compared.steps, strict=False)
    }
    last = [step.n for step in compared.steps[-1:]]
    kept = {*sorted(gains, key=gains.__getitem__)[-MOST_STEPS:], *last}
    for step in (step for step in compared.steps if step.n in kept):
        row = step.row
        value = score(step.score, compared.decimals)
        said = f"{wording.count(step.n)} ideas: {value}, #{row.id} {row.title}"
        at = dict(cx=x(step.n), cy=y(step.score))
        yield tag(
            "a",
            tag("title", said),
            tag("circle", **at, r=9, class_="hover"),
            tag("circle", **at, r=4, class_="step"),
            href=f"#idea={row.id}",
            aria_label=said,
        )
