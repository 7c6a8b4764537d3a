"""The whole page, live or as a file: one document that needs nothing beside it.

Sections are markup made here; the table and an idea's pane are built in the browser from the data
in the page, with `textContent` only. The policy lets no other script or style in than these two, by
their hashes, and `require-trusted-types-for` leaves the script one gate through which markup goes.
"""

import base64
import hashlib
import json
import re
from functools import cache
from importlib import resources
from typing import Any

from research_env.dashboard import curve, lineage, sections, verdict
from research_env.dashboard.comparisons import Comparison, compare
from research_env.dashboard.figures import finite, is_over, title
from research_env.dashboard.snapshot import Row, Snapshot
from sbp_jax.report import style
from sbp_jax.reporting.markup import Child, Markup, tag

SCRIPTS = ("words.js", "table.js", "diff.js", "pane.js", "live.js")
FILE, LIVE = "file", "live"
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Cpath d='M2 13V9h4V6h4V2h4' fill='none' stroke='%231f5fbf' stroke-width='2.4'/%3E%3C/svg%3E"
)


def policy(mode: str) -> str:
    """For the header, and for the file's own head, where frame-ancestors is not heeded."""
    parts = [
        "default-src 'none'",
        f"script-src '{_sha(script())}'",
        f"style-src '{_sha(css())}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types sections",
    ]
    if mode == LIVE:
        parts += ["connect-src 'self'", "frame-ancestors 'none'"]
    return "; ".join(parts)


def _sha(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def script() -> str:
    """Its parts in one scope of their own."""
    return f"'use strict';\n(() => {{\n{''.join(map(_resource, SCRIPTS))}}})();\n"


@cache
def css() -> str:
    return f"{style()}\n{_resource('page.css')}"


def _resource(name: str) -> str:
    place = resources.files("research_env.dashboard").joinpath("static", name)
    return place.read_text(encoding="utf-8")


def made_sections(snapshot: Snapshot, compared: Comparison) -> dict[str, Markup]:
    """By the names of their places in the page."""
    parts: dict[str, Child] = {
        "header": sections.header(snapshot),
        "headline": sections.headline(snapshot, compared),
        "progress": sections.progress(snapshot),
        "states": sections.states(snapshot),
        "verdict": _titled("The referee", verdict.section(snapshot, compared)),
        "curve": _titled("Best so far", curve.chart(snapshot, compared)),
        "lineage": _titled("Lineage of the best", lineage.tree(snapshot, compared.decimals)),
    }
    return {name: tag("div", part) if part else Markup() for name, part in parts.items()}


def _titled(heading: str, content: Markup | None) -> Markup | None:
    return tag("section", tag("h2", heading), content) if content else None


def table(snapshot: Snapshot, compared: Comparison) -> dict[str, Any]:
    return {
        "fields": Row._fields,
        "rows": [packed(row) for row in snapshot.rows],
        "facts": facts(snapshot, compared),
    }


def facts(snapshot: Snapshot, compared: Comparison) -> dict[str, Any]:
    best = snapshot.best()
    return finite(
        {
            "title": title(snapshot),
            "maximize": snapshot.maximize,
            "baseline": compared.baseline,
            "noise": compared.noise,
            "decimals": compared.decimals,
            "best": best.score if best else None,
            "best_id": best.id if best else None,
            "ended": len(compared.ended),
            "over": is_over(snapshot),
            "running": snapshot.running,
            "now": snapshot.now,
        }
    )


def packed(row: Row) -> list[Any]:
    return list(row)


def in_script(value: Any) -> Markup:
    """JSON that no text in it can end the script element with."""
    written = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII
    return Markup(re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", written))


def document(
    snapshot: Snapshot, mode: str, data: dict[str, Any], details: dict[str, Any] | None = None
) -> str:
    compared = compare(snapshot)
    made = made_sections(snapshot, compared)
    data = {"mode": mode, **table(snapshot, compared), **data}
    head = tag(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy(FILE)}">')
        if mode == FILE else None,
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="referrer" content="no-referrer">'),
        Markup(f'<link rel="icon" href="{ICON}">'),
        tag("title", title(snapshot)),
        Markup(f"<style>{css()}</style>"),
    )  # fmt: skip
    body = tag(
        "body",
        _frame(made),
        _data("data", data),
        _data("details", details or {}),
        Markup(f"<script>{script()}</script>"),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _data(name: str, value: Any) -> Markup:
    return Markup(f'<script type="application/json" id="{name}">{in_script(value)}</script>')


def _frame(made: dict[str, Markup]) -> Markup:
    """The places of the sections and the table; the rest of it is the script's."""

    def place(name: str, element: str = "div") -> Markup:
        return tag(element, made[name], id=f"section-{name}")

    return markup_of(
        tag("a", "Skip to the ideas", href="#ideas", class_="skip"),
        tag(
            "main",
            tag("div", place("header", "header"), tag("p", id="live", role="status"),
                class_="top"),
            tag(
                "div",
                tag("div", place("headline"), place("curve"), class_="wide-part"),
                tag("aside", place("progress"), place("states"), class_="side",
                    aria_label="Progress"),
                class_="columns",
            ),
            place("verdict"),
            place("lineage"),
            _resource_markup("table.html"),
        ),
        _resource_markup("pane.html"),
    )  # fmt: skip


def markup_of(*parts: Markup) -> Markup:
    return Markup("".join(parts))


def _resource_markup(name: str) -> Markup:
    return Markup(_resource(name))
