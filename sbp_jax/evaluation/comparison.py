"""A comparison of models as a person reads it: Markdown, which a terminal shows as well, and HTML.

Like the paper's tables: the first model's scores, then the others' deltas with a sign. A row's
numbers are as exact as its scores are large, so that a delta of 0.0004 bits is not shown as zero.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sbp_jax import files
from sbp_jax.evaluation.markdown import table

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """What one model got; the first model's has no delta."""

    value: float
    stderr: float
    delta: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    p: float = math.nan
    mark: str = ""  # win, loss, tie, few, undefined


@dataclass(frozen=True)
class Row:
    benchmark: str
    task: str
    metric: str
    shots: int | None
    percent: bool
    documents: int
    cells: Sequence[Cell | None]  # one a model, None where it was not evaluated
    paper: Sequence[float | None] = ()
    clean: bool = False  # without contaminated documents


@dataclass(frozen=True)
class Comparison:
    models: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; a number that is not finite is None, for JSON has none."""
        return _plain(asdict(self))

    def markdown(self) -> str:
        return table(self._lines()) + "".join(f"\n{note}\n" for note in self.notes)

    def html_fragment(self) -> str:
        """A table with its style, to be put into any page."""
        header, *lines = self._lines()
        columns = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in header)
        body = ""
        for row, line in zip(self.rows, lines, strict=True):
            body += f'<tr><th scope="row">{html.escape(line[0])}</th>'
            for i, text in enumerate(line[1:]):
                cell = row.cells[i - 2] if 2 <= i < 2 + len(row.cells) else None
                tip = f' title="p = {cell.p:.2g}"' if cell and math.isfinite(cell.p) else ""
                body += f'<td class="{cell.mark if cell else ""}"{tip}>{html.escape(text)}</td>'
            body += "</tr>\n"
        notes = "".join(f"<p>{html.escape(note)}</p>\n" for note in self.notes)
        return (
            f'<div class="comparison">\n<style>{_STYLE}</style>\n<div class="scroll"><table>\n'
            f"<thead><tr>{columns}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
            f"{notes}</div>\n"
        )

    def html_page(self) -> str:
        title = html.escape(f"{self.models[0]} and {', '.join(self.models[1:])}")
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{title}</title>\n<style>{_PAGE_STYLE}</style>\n</head>\n"
            f"<body>\n{self.html_fragment()}</body>\n</html>\n"
        )

    def write(self, folder: Path) -> None:
        """comparison.md, .json and .html."""
        files.write_bytes(folder / "comparison.md", self.markdown().encode())
        files.write_bytes(folder / "comparison.html", self.html_page().encode())
        files.write_json(folder / "comparison.json", self.as_dict())

    def _lines(self) -> list[list[str]]:
        """The header, then a line a row."""
        columns = max((len(row.paper) for row in self.rows), default=0)
        paper = ["paper", "paper's SBP", "paper's oracle"][:columns]
        shown = [["benchmark", "shots", "documents", *self.models, *paper]]
        for row in self.rows:
            of_paper = [*row.paper, *[None] * (columns - len(row.paper))]
            shown.append(
                [
                    row.benchmark + (", clean" if row.clean else ""),
                    "" if row.shots is None else str(row.shots),
                    f"{row.documents:,}",
                    *_cells(row),
                    *(_number(x, 2, signed=i > 0) for i, x in enumerate(of_paper)),
                ]
            )
        return [[" ".join(text.split()) for text in line] for line in shown]


def _cells(row: Row) -> list[str]:
    scale = 100 if row.percent else 1
    sizes = [abs(c.value) * scale for c in row.cells if c and math.isfinite(c.value)]
    least = min(sizes, default=0)
    digits = 2 if row.percent or least >= 100 else 3 if least >= 1 else 4

    def number(value: float, signed: bool = True) -> str:
        return _number(value * scale, digits, signed)

    texts = []
    for i, cell in enumerate(row.cells):
        if cell is None:
            texts.append(MISSING)
        elif i == 0:
            texts.append(f"{number(cell.value, False)} ± {number(cell.stderr, False)}")
        elif cell.mark in ("", "undefined"):  # "": the first model has no such score
            texts.append(f"= {number(cell.value, False)} {cell.mark}".strip())
        else:
            low, high = map(number, cell.interval)
            texts.append(f"{number(cell.delta)} [{low}, {high}] {cell.mark}")
    return texts


def _number(value: float | None, digits: int, signed: bool) -> str:
    if value is None or math.isnan(value):
        return MISSING
    if round(value, digits) == 0:
        value = 0.0  # no -0.00
    return f"{value:+,.{digits}f}" if signed and value else f"{value:,.{digits}f}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_STYLE = """
.comparison { --line: #d0d0d0; --back: #fff; --win: #0a6b2d; --loss: #a31515; --quiet: #666; }
@media (prefers-color-scheme: dark) {
  .comparison { --line: #444; --back: #161616; --win: #62d48a; --loss: #ff8a80; --quiet: #aaa; }
}
.comparison .scroll { overflow-x: auto; }
.comparison table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.comparison th, .comparison td {
  padding: .35em .7em; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
}
.comparison th:first-child {
  text-align: left; position: sticky; left: 0; background: var(--back); white-space: normal;
}
.comparison thead th { white-space: normal; overflow-wrap: anywhere; min-width: 5em; }
.comparison .win { color: var(--win); font-weight: 600; }
.comparison .loss { color: var(--loss); font-weight: 600; }
.comparison .few, .comparison .undefined, .comparison p { color: var(--quiet); }
"""
_PAGE_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 1em; color: #111; background: #fff; }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #161616; } }
"""
