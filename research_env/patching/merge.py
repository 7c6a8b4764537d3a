"""Two changes of one text brought together, where they do not touch each other."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple


class _Edit(NamedTuple):
    low: int  # in the base
    high: int
    lines: list[str]


def merge(base: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> list[str] | None:
    """Lines with both changes; None where both change, differently, the same or adjacent lines."""
    left, right = _edits(base, ours), _edits(base, theirs)
    merged: list[str] = []
    at = 0
    while left or right:
        low = min(edits[0].low for edits in (left, right) if edits)
        high = low
        mine: list[_Edit] = []
        yours: list[_Edit] = []
        grown = True
        while grown:  # what touches the chunk belongs to it
            grown = False
            for edits, taken in ((left, mine), (right, yours)):
                while edits and edits[0].low <= high:
                    edit = edits.pop(0)
                    taken.append(edit)
                    high = max(high, edit.high)
                    grown = True
        merged += base[at:low]
        if not yours:
            merged += _applied(base, low, high, mine)
        else:
            result = _applied(base, low, high, yours)
            if mine and _applied(base, low, high, mine) != result:
                return None
            merged += result
        at = high
    return [*merged, *base[at:]]


def _edits(base: Sequence[str], other: Sequence[str]) -> list[_Edit]:
    codes = SequenceMatcher(None, base, other, autojunk=False).get_opcodes()
    return [_Edit(i, j, list(other[k:m])) for tag, i, j, k, m in codes if tag != "equal"]


def _applied(base: Sequence[str], low: int, high: int, edits: Sequence[_Edit]) -> list[str]:
    lines: list[str] = []
    for edit in edits:
        lines += [*base[low : edit.low], *edit.lines]
        low = edit.high
    return [*lines, *base[low:high]]
