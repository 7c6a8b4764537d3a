"""Texts of models and candidates as they are, and nothing but texts to the eye.

Escaping for HTML is the page's business. Here goes what would still deceive a reader: letters that
turn others around (a diff that runs differently than it reads), that are not seen at all, and the
terminal's colours and cursor movements.
"""

import re

# Of a terminal: colours and movements, window titles, and the short ones.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?"
)
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)


def plain(text: object) -> str:
    """With line feeds as its only control characters beside tabs; what is hidden is named."""
    said = "" if text is None else str(text)
    if said.isascii() and said.isprintable():
        return said
    said = _ESCAPES.sub("", said).replace("\r\n", "\n").replace("\r", "\n")
    return _HIDDEN.sub(lambda found: f"\u27e8U+{ord(found[0]):04X}\u27e9", said)


def line(text: object, most: int = 200) -> str:
    """In one line, cut where it is too long."""
    raw = "" if text is None else str(text)
    if len(raw) <= most and raw.isascii() and raw.isprintable():
        return raw
    said = " ".join(plain(raw[: 4 * most]).split())
    return said if len(said) <= most and len(raw) <= 4 * most else said[: most - 1] + "…"


def excerpt(text: str, most: int) -> str:
    """Head and tail of a long one, which says what is missing."""
    if len(text) <= most:
        return text
    tail = most // 2
    left_out = len(text) - most
    return f"{text[: most - tail]}\n… {left_out:,} characters are left out …\n{text[-tail:]}"
