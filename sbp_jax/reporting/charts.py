"""Figures as SVG, written by hand: once for a page's width and once for a phone's, so that texts
have their size on both. Colours are variables of the page, hence light and dark.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from sbp_jax.reporting import wording
from sbp_jax.reporting.figures import STYLES, Bars, Figure, Interval, Intervals, Line, Lines
from sbp_jax.reporting.markup import Markup, markup, tag

WIDE, NARROW = 912, 340
ROW = 30  # of a chart with rows
LETTER, DIGIT = 6.8, 8.0  # widths of 12.5 px, in a wide font


class Scale(NamedTuple):
    """From values to places."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        width = (self.high - self.low) or 1.0
        return self.start + (value - self.low) / width * (self.end - self.start)


def chart(figure: Figure) -> Markup:
    draw: Any = {Lines: _lines, Intervals: _intervals, Bars: _bars}[type(figure)]
    return tag(
        "figure",
        draw(figure, WIDE, class_="wide"),
        draw(figure, NARROW, class_="narrow"),
        legend(figure),
        tag("figcaption", figure.note) if isinstance(figure, Lines) and figure.note else None,
        class_="chart",
    )


def svg(width: float, height: float, label: str, *children: Markup, class_: str) -> Markup:
    return tag(
        "svg", *children, viewBox=f"0 0 {width} {height:.0f}", role="img", aria_label=label,
        class_=class_,
    )  # fmt: skip


def text(x: float, y: float, words: str, class_: str = "", anchor: str = "start") -> Markup:
    return tag("text", words, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def fitted(words: str, room: float) -> str:
    """What there is room for; the whole is in the title and in the figures below."""
    letters = max(4, int(room / LETTER))
    return words if len(words) <= letters else words[: letters - 1] + "…"


def rule(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from low to high, about as many as there is room for."""
    span = (high - low) or 1.0
    raw = span / max(1, most)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_labels(marks: list[float]) -> list[str]:
    """With as many decimals as tell them apart."""
    digits = max(0, -math.floor(math.log10(marks[1] - marks[0]) + 1e-9)) if len(marks) > 1 else 2
    if len(marks) > 1 and round((marks[1] - marks[0]) * 10**digits, 6) % 1:  # steps of 0.25
        digits += 1
    return [wording.signed(f"{value:.{digits}f}") for value in marks]


def _colour(style: int) -> str:
    return f"var(--c{style})"


def _dash(style: int) -> str | None:
    return ",".join(map(str, STYLES[style].dash)) or None


def marker(style: int, x: float, y: float, size: float = 4.0) -> Markup:
    fill, s = _colour(style), size
    if STYLES[style].marker == "circle":
        return tag("circle", cx=x, cy=y, r=s, fill=fill)
    corners = {
        "square": [(-s, -s), (s, -s), (s, s), (-s, s)],
        "diamond": [(0, -1.4 * s), (1.4 * s, 0), (0, 1.4 * s), (-1.4 * s, 0)],
        "up": [(0, -1.3 * s), (1.2 * s, s), (-1.2 * s, s)],
        "down": [(0, 1.3 * s), (1.2 * s, -s), (-1.2 * s, -s)],
    }[STYLES[style].marker]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return tag("polygon", points=points, fill=fill)


def legend(figure: Figure) -> Markup | None:
    """Below the chart. Lines have theirs at their ends where there is room."""
    if isinstance(figure, Lines):
        keys = [
            (
                line.label,
                [
                    tag("line", x1=0, y1=6, x2=30, y2=6, stroke=_colour(line.style),
                        stroke_width=2, stroke_dasharray=_dash(line.style)),
                    marker(line.style, 15, 6),
                ],
            )
            for line in figure.lines
        ]  # fmt: skip
    elif isinstance(figure, Bars):
        parts = {part.label: part.style for _, row, _ in figure.rows for part in row}
        if len(set(parts.values())) < 2:
            return None
        keys = [
            (label, [tag("rect", width=30, height=12, rx=2, fill=_colour(style))])
            for label, style in parts.items()
        ]
    else:
        return None
    items = [
        tag("li", tag("svg", *drawn, width=30, height=12, aria_hidden="true", class_="key"), label)
        for label, drawn in keys
    ]
    return tag("ul", items, class_="legend narrow" if isinstance(figure, Lines) else "legend")


def _lines(figure: Lines, width: int, class_: str) -> Markup:
    wide = width == WIDE
    longest = max(len(line.label) for line in figure.lines)
    left, right = 52.0, width - (min(190.0, 26 + LETTER * longest) if wide else 20.0)
    top, bottom = 26.0, 340.0 if wide else 240.0
    every = [y for line in figure.lines for y in (*line.y, *line.low, *line.high)]
    low, high = min(every), max(every) if figure.top is None else figure.top
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - pad, high + (pad if figure.top is None else 0.0)
    x = Scale(min(line.x[0] for line in figure.lines), max(line.x[-1] for line in figure.lines),
              left, right)  # fmt: skip
    y = Scale(low, high, bottom, top)
    drawn: list[Markup] = [text(0, 12, figure.y_label, "small")]
    marks = ticks(low, high, 6 if wide else 5)
    for value, said in zip(marks, tick_labels(marks), strict=True):
        drawn.append(rule(left, y(value), right, y(value), "grid"))
        drawn.append(text(left - 8, y(value) + 4, said, "small", "end"))
    drawn.append(rule(left, bottom, right, bottom, "axis"))
    for value in ticks(x.low, x.high, 8 if wide else 4):
        drawn.append(rule(x(value), bottom, x(value), bottom + 4, "axis"))
        drawn.append(text(x(value), bottom + 18, wording.count(value), "small", "middle"))
    drawn.append(text((left + right) / 2, bottom + 38, figure.x_label, "small", "middle"))
    if wide:
        drawn += end_labels(figure.lines, x, y, right + 12, bottom)
    plotted = [part for line in figure.lines for part in _line(line, x, y)]
    # An SVG in the SVG clips what lies above `top`, and needs no id, of which a page has one each.
    box = dict(x=left - 6, y=top, width=right - left + 12, height=bottom - top + 6)
    view = f"{box['x']:.0f} {box['y']:.0f} {box['width']:.2f} {box['height']:.2f}"
    drawn.append(tag("svg", plotted, **box, viewBox=view, preserveAspectRatio="none"))
    return svg(width, bottom + 46, f"{figure.title}. {_said(figure)}", *drawn, class_=class_)


def _line(line: Line, x: Scale, y: Scale) -> Iterator[Markup]:
    colour = _colour(line.style)
    if line.low:
        edge = [
            *zip(line.x, line.high, strict=True),
            *reversed([*zip(line.x, line.low, strict=True)]),
        ]
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in edge)
        yield tag("polygon", points=points, fill=colour, class_="band")
    points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(line.x, line.y, strict=True))
    yield tag("polyline", points=points, stroke=colour, stroke_dasharray=_dash(line.style),
              class_="line")  # fmt: skip
    for i, (a, b) in enumerate(zip(line.x, line.y, strict=True)):
        spread = (
            f" ({wording.loss(line.low[i])} to {wording.loss(line.high[i])})" if line.low else ""
        )
        said = f"{line.label}, {wording.count(a)}: {wording.loss(b)}{spread}"
        last = i == len(line.x) - 1
        shown = marker(line.style, x(a), y(b), 4.0 if last else 2.6)
        yield tag(
            "g", tag("title", said), tag("circle", cx=x(a), cy=y(b), r=9, class_="hover"), shown
        )


def end_labels(
    lines: list[Line], x: Scale, y: Scale, left: float, bottom: float
) -> Iterator[Markup]:
    """At the lines' ends, moved apart where they would overlap."""
    places: list[float] = []
    ordered = sorted(lines, key=lambda line: y(line.y[-1]))
    for line in ordered:
        places.append(max(y(line.y[-1]), places[-1] + 16 if places else 0.0))
    for i in reversed(range(len(places))):
        places[i] = min(places[i], bottom - 4 if i == len(places) - 1 else places[i + 1] - 16)
    for line, place in zip(ordered, places, strict=True):
        end = max(y(line.y[-1]), y.end)
        yield tag("polyline", points=f"{x(line.x[-1]) + 5:.1f},{end:.1f} {left:.1f},{place:.1f}",
                  stroke=_colour(line.style), class_="leader")  # fmt: skip
        yield marker(line.style, left + 3, place, 3.5)
        yield text(left + 12, place + 4, fitted(line.label, 160))


def _said(figure: Lines) -> str:
    """What the chart shows, for those who hear it."""
    ends = (f"{line.label} ends at {wording.loss(line.y[-1])}" for line in figure.lines)
    return "; ".join(ends) + "."


def _intervals(figure: Intervals, width: int, class_: str) -> Markup:
    """A row for each: marker and whiskers, zero and one as the lines to measure by."""
    wide = width == WIDE
    longest = max(len(row.label) for row in figure.rows)
    left = min(300.0, LETTER * longest + 16) if wide else 8.0
    right = width - (170.0 if wide else 8.0)
    ends = [e for row in figure.rows for e in (row.value, row.low, row.high) if e is not None]
    # A ratio of small differences may lie anywhere; the chart stays where it can be read.
    low = max(min(0.0, *ends), -1.5)
    high = min(max(1.0, *ends), 2.5)
    x = Scale(low - 0.04 * (high - low), high + 0.04 * (high - low), left, right)
    rows, at, group = [], 14.0, None
    for row in figure.rows:
        if row.group and row.group != group:
            at += 14 if group else 0
            rows.append(text(0, at + 12, row.group, "group"))
            at, group = at + 22, row.group
        height = ROW if wide else 46.0
        if not wide and LETTER * len(row.label) + DIGIT * len(_value(row)) > width:
            height += 16  # label and value one below the other
        rows.append(_interval(row, x, at, height, width))
        at += height
    scale = [rule(x(value), 6, x(value), at, "grid") for value in ticks(x.low, x.high, 6)]
    scale += [rule(x(value), 6, x(value), at, "zero") for value in (0.0, 1.0)]
    labels = [
        text(x(value), at + 16, wording.percent(value), "small", "middle")
        for value in ticks(x.low, x.high, 6 if wide else 5)
    ]
    labels.append(text((left + right) / 2, at + 36, figure.x_label, "small", "middle"))
    said = "; ".join(
        f"{row.label}: {wording.percent(row.value)}, interval {wording.interval(row.low, row.high)}"
        for row in figure.rows
    )
    return svg(width, at + 44, f"{figure.title}. {said}.", *scale, *rows, *labels, class_=class_)


def _value(row: Interval) -> str:
    value = wording.percent(row.value)
    known = row.low is not None and row.high is not None
    return f"{value} ({wording.interval(row.low, row.high)})" if known else value


def _interval(row: Interval, x: Scale, top: float, height: float, width: int) -> Markup:
    wide = width == WIDE
    middle = top + ROW / 2 if wide else top + height - 14
    said, colour = _value(row), _colour(row.style)
    drawn = [
        tag("title", f"{row.label}: {said}"),
        tag("rect", x=0, y=top, width=width, height=height, class_="hover"),
        text(
            0, middle + 4 if wide else top + 14, fitted(row.label, (x.start if wide else width) - 8)
        ),
        text(width, middle + 4 if wide else middle - 18, said, "number", "end"),
    ]
    if row.low is not None and row.high is not None:
        a, b = (max(x.low, min(x.high, end)) for end in (row.low, row.high))
        drawn.append(tag("line", x1=x(a), y1=middle, x2=x(b), y2=middle, stroke=colour,
                         class_="whisker"))  # fmt: skip
        for end, shown in ((row.low, a), (row.high, b)):
            cap = 0 if end == shown else 1 if end > shown else -1
            points = [(-6 * cap, -6), (0, 0), (-6 * cap, 6)]  # an arrow where it goes on
            path = " ".join(f"{x(shown) + dx:.1f},{middle + dy:.1f}" for dx, dy in points)
            drawn.append(tag("polyline", points=path, stroke=colour, class_="whisker"))
    if x.low <= row.value <= x.high:
        drawn.append(marker(row.style, x(row.value), middle, 5.5))
    return tag("g", *drawn)


def _bars(figure: Bars, width: int, class_: str) -> Markup:
    wide = width == WIDE
    longest = max(len(label) for label, _, _ in figure.rows)
    tail = max(len(end) for _, _, end in figure.rows)
    left = min(260.0, LETTER * longest + 16) if wide else 0.0
    right = width - (DIGIT * tail + 14 if wide and tail else 0.0)
    most = max(sum(part.value for part in parts) for _, parts, _ in figure.rows) or 1.0
    x = Scale(0, most, left, right)
    drawn, at = [], 2.0
    for label, parts, end in figure.rows:
        top = at + 4 if wide else at + 20
        whole = sum(part.value for part in parts)
        room = left - 8 if wide else width - DIGIT * len(end) - 8
        drawn.append(text(0, top + 15 if wide else at + 14, fitted(label, room)))
        drawn.append(rule(left, top, left, top + 22, "axis"))
        if end:
            place = x(whole) + 8 if wide else width
            drawn.append(text(place, top + 15 if wide else at + 14, end, "number",
                              "start" if wide else "end"))  # fmt: skip
        before = 0.0
        for part in parts:
            size = x(part.value) - x(0)
            said = f"{label}, {part.label}: {part.text or end}"
            bar = tag("rect", x=x(before), y=top, width=max(0.0, size - 1), height=22,
                      fill=_colour(part.style), rx=2)  # fmt: skip
            short = next(
                (t for t in (f"{part.label} {part.text}", part.text, part.label)
                 if part.text and len(t) * LETTER + 12 < size), None
            )  # fmt: skip
            inside = text(x(before) + 7, top + 15, short, "inside") if short else markup(None)
            drawn.append(tag("g", tag("title", said), bar, inside))
            before += part.value
        at += ROW if wide else 48
    said = "; ".join(
        f"{label}: " + (end or ", ".join(f"{p.label} {p.text}" for p in parts))
        for label, parts, end in figure.rows
    )
    return svg(width, at + 2, f"{figure.title}. {said}.", *drawn, class_=class_)
