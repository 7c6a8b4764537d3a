"""HTML and SVG that no text can break: what is not Markup is escaped where it is put in."""

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

# What no HTML page may hold; and halves of surrogate pairs, which UTF-8 has no bytes for.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """A text that is markup already."""


Child: TypeAlias = "str | int | float | Iterable[Child] | None"


def clean(text: str) -> str:
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def markup(child: Child) -> Markup:
    """Of a text, of markup, of any number of them one after the other; nothing of None."""
    if child is None:
        return Markup()
    if isinstance(child, Markup):
        return child
    if isinstance(child, str | int | float):
        return Markup(html.escape(clean(str(child))))
    return Markup("".join(map(markup, child)))


def tag(name: str, *children: Child, **attributes: str | int | float | None) -> Markup:
    """An element. `class_` stands for class, `aria_label` for aria-label; None leaves one out."""
    written = [
        f' {key.rstrip("_").replace("_", "-")}="{markup(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    inner = markup(children)
    return Markup(f"<{name}{''.join(written)}>{inner}</{name}>")


def _short(value: str | int | float) -> str | int | float:
    """Coordinates with two decimals: a page of charts is mostly coordinates."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
