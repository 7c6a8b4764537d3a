"""What fits into a prompt: of everything there is to show, the most valuable.

Pieces stand in sections, in an order of their own, and each has a value. Where a budget of tokens
does not hold all, the least valuable piece goes first, whatever its section, and so on: who is in
is worth at least as much as who is not. A section says what it has lost.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sbp_jax.errors import UserError

ALWAYS = math.inf
NAMED = 5  # of the pieces that were left out, by their names


class Piece(NamedTuple):
    name: str
    text: str
    value: float = ALWAYS


class Section(NamedTuple):
    title: str
    pieces: Sequence[Piece]
    frame: Callable[[str], str] = str  # put around the pieces, one below the other


class Packed(NamedTuple):
    text: str
    left_out: tuple[str, ...]  # names, the most valuable first


def pack(sections: Sequence[Section], budget: int, count: Callable[[str], int]) -> Packed:
    """The same of the same. `count` says how many tokens a text has."""
    places = [(i, j) for i, section in enumerate(sections) for j in range(len(section.pieces))]
    places.sort(key=lambda place: -_piece(sections, place).value)  # stable: the earlier first
    fewest = sum(_piece(sections, place).value == ALWAYS for place in places)

    def packed(number: int) -> str:
        return _render(sections, set(places[:number]))

    low, high = fewest, len(places)
    if (least := count(packed(low))) > budget:
        raise UserError(
            f"what a prompt has to show takes {least:,} tokens, and there is room for "
            f"{max(0, budget):,}; give the model more context (--context_tokens), shorter answers, "
            "or the environment less code"
        )
    while low < high:  # the largest number that fits
        middle = (low + high + 1) // 2
        if count(packed(middle)) <= budget:
            low = middle
        else:
            high = middle - 1
    return Packed(packed(low), tuple(_piece(sections, place).name for place in places[low:]))


def _piece(sections: Sequence[Section], place: tuple[int, int]) -> Piece:
    return sections[place[0]].pieces[place[1]]


def _render(sections: Sequence[Section], kept: set[tuple[int, int]]) -> str:
    parts: list[str] = []
    for i, section in enumerate(sections):
        if not section.pieces:
            continue
        shown = [piece.text for j, piece in enumerate(section.pieces) if (i, j) in kept]
        lost = [piece.name for j, piece in enumerate(section.pieces) if (i, j) not in kept]
        parts.append(f"## {section.title}")
        if shown:
            parts.append(section.frame("\n".join(shown)))
        if lost:
            names = ", ".join(lost[:NAMED]) + (", ..." if len(lost) > NAMED else "")
            parts.append(
                f"({len(lost)} of {len(section.pieces)} left out for lack of space: {names})"
            )
    return "\n\n".join(parts)
