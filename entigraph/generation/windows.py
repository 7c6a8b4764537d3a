"""Documents that are longer than a prompt may be, in windows; and what of them a pair is shown.

Windows do not overlap and leave nothing out: they are cut at blank lines, else at lines, sentences,
spaces, or anywhere, in this order.
"""

import re
from collections.abc import Callable, Iterator, Sequence

BORDERS = tuple(
    re.compile(border)
    for border in (r"(?<=\n)(?=\n+\S)", r"(?<=\n)", r"(?<=[.!?。！？])", r"(?<=\s)")
)
GAP = "\n[...]\n"


def windows(text: str, limit: int, count: Callable[[str], int]) -> list[str]:
    """Of about the same size, at most `limit` by `count` each."""
    sizes = [(piece, count(piece)) for piece in _pieces(text, limit, count)]
    total = sum(size for _, size in sizes)
    target = total / max(1, -(-total // limit))
    made: list[str] = []
    filled = 0
    for piece, size in sizes:
        if made and filled + size / 2 <= target and filled + size <= limit:
            made[-1] += piece
            filled += size
        else:
            made.append(piece)
            filled = size
    return made


def _pieces(text: str, limit: int, count: Callable[[str], int], depth: int = 0) -> Iterator[str]:
    """Small enough to be packed well, unless the text fits as it is."""
    if count(text) <= (limit if not depth else max(1, limit // 8)) or len(text) < 2:
        yield text
        return
    for level in range(depth, len(BORDERS)):
        parts = [part for part in BORDERS[level].split(text) if part]
        if len(parts) > 1:
            for part in parts:
                if count(part) <= limit:
                    yield part
                else:
                    yield from _pieces(part, limit, count, level + 1)
            return
    if count(text) <= limit:
        yield text
        return
    middle = len(text) // 2
    yield from _pieces(text[:middle], limit, count, len(BORDERS))
    yield from _pieces(text[middle:], limit, count, len(BORDERS))


def shown(parts: Sequence[str], places: Sequence[tuple[int, int]]) -> str:
    """What a prompt shows of a document with such windows, to speak of things that are first named
    at these places (window, character): the window that has most of them; where no one has all, a
    piece of a window around each.
    """
    numbers = [window for window, _ in places]
    if len(set(numbers)) <= 1:
        return parts[numbers[0] if numbers else 0]
    return GAP.join(
        _around(parts[window], character, len(parts[window]) // len(places))
        for window, character in sorted(set(places))
    )


def _around(text: str, character: int, length: int) -> str:
    """That many characters about a place, in whole words."""
    start = max(0, min(character - length // 2, len(text) - length))
    stop = start + length
    if start and (space := text.find(" ", start, character)) >= 0:
        start = space + 1
    if stop < len(text) and (space := text.rfind(" ", character, stop)) >= 0:
        stop = space
    return text[start:stop].strip()
