"""Where the hunks of a diff belong in a file that is not quite the one they were written for.

Never a guess: lines that occur twice are refused, as are those that are merely like the file's. A
change at the wrong place would be scored as if it were the idea.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher, get_close_matches

from research_env.patching.diff_text import Hunk
from research_env.patching.merge import merge

TRIMMED = 2  # outermost lines of context that may be wrong, at each end
DRIFT = 2  # lines that the file may have more, or less, within a hunk
KEPT = 0.6  # of a hunk's old lines that must be in the file


class Misfit(ValueError):
    """Where a hunk does not belong anywhere; says what to do."""


def apply_hunks(lines: Sequence[str], hunks: Sequence[Hunk], fuzzy: bool) -> list[str]:
    """The changed lines; each has its end. Without `fuzzy`, every old line must be there as it is.

    Raises Misfit.
    """
    text = list(lines)
    fresh = [False] * len(text)  # written by an earlier hunk, so no place for a later one
    moved = 0
    for hunk in hunks:
        expected = None if hunk.start is None else hunk.start + moved
        old = hunk.old
        if not old:
            place, size = _insertion(hunk, text, expected), 0
            result = hunk.new
        else:
            taken = fresh if hunk.start is not None else [False] * len(text)
            place, size, result = _fitted(hunk, text, taken, expected, fuzzy)
        if hunk.start is not None:
            moved = place - hunk.start + len(result) - size
        text[place : place + size] = result
        fresh[place : place + size] = [True] * len(result)
    return [line if line.endswith("\n") else line + "\n" for line in text[:-1]] + text[-1:]


def _insertion(hunk: Hunk, text: list[str], expected: int | None) -> int:
    if not text:
        return 0
    if expected is None or expected > len(text):
        raise Misfit(f"{hunk.label}: it only adds lines; show one or two lines around them as well")
    return expected


def _fitted(
    hunk: Hunk, text: list[str], taken: list[bool], expected: int | None, fuzzy: bool
) -> tuple[int, int, list[str]]:
    """Where, how many lines there, and what they become."""
    old = hunk.old
    for matched in (_exact, _but_for_ends, _but_for_indent)[: 3 if fuzzy else 1]:
        places = {}
        for i in range(len(text) - len(old) + 1):
            window = text[i : i + len(old)]
            if not any(taken[i : i + len(old)]):
                shift = matched(window, old)
                if shift is not None:
                    places[i] = shift
        at = _only(hunk, sorted(places), expected)
        if at is not None:
            return at, len(old), _replaced(hunk, text[at : at + len(old)], places[at])
    if fuzzy and (found := _trimmed(hunk, text, taken, expected) or _merged(hunk, text, taken)):
        return found
    first = next((line for line in old if line.strip()), old[0])
    near = get_close_matches(first, text, 1, 0.5)
    hint = f"; the nearest line is {text.index(near[0]) + 1}: {near[0].strip()!r}" if near else ""
    raise Misfit(f"{hunk.label}: its lines are not in the file, first {first.strip()!r}{hint}")


def _only(hunk: Hunk, places: list[int], expected: int | None) -> int | None:
    if expected in places:
        return expected
    if len(places) > 1:
        lines = ", ".join(str(place + 1) for place in places[:5])
        raise Misfit(
            f"{hunk.label}: its lines occur more than once (lines {lines}); show more of them"
        )
    return places[0] if places else None


Shift = tuple[str, str]  # indentation to take off, and to put on


def _exact(window: Sequence[str], old: Sequence[str]) -> Shift | None:
    return ("", "") if window == old else None


def _but_for_ends(window: Sequence[str], old: Sequence[str]) -> Shift | None:
    same = all(a.rstrip() == b.rstrip() for a, b in zip(window, old, strict=True))
    return ("", "") if same else None


def _but_for_indent(window: Sequence[str], old: Sequence[str]) -> Shift | None:
    """The whole hunk further in or out, by the same."""
    shifts = set()
    for a, b in zip(window, old, strict=True):
        if a.strip() != b.strip():
            return None
        if a.strip():
            ours, theirs = a[: len(a) - len(a.lstrip())], b[: len(b) - len(b.lstrip())]
            if ours.endswith(theirs):
                shifts.add(("", ours.removesuffix(theirs)))
            elif theirs.endswith(ours):
                shifts.add((theirs.removesuffix(ours), ""))
            else:
                return None
    return shifts.pop() if len(shifts) == 1 else None


def _replaced(hunk: Hunk, window: Sequence[str], shift: Shift) -> list[str]:
    """The file's own lines where they stay, and the new ones in its manner."""
    off, on = shift
    crlf = all(line.endswith("\r\n") for line in window)
    crlf = crlf and not any(line.endswith("\r\n") for line in hunk.old)
    result, at = [], 0
    for tag, line in hunk.body:
        if tag == "+":
            if line.strip():
                if not line.startswith(off):
                    raise Misfit(f"{hunk.label}: {line.strip()!r} is indented less than its lines")
                line = on + line.removeprefix(off)
            if crlf and not line.endswith("\r\n"):
                line = line.removesuffix("\n") + "\r\n"
            result.append(line)
            continue
        if tag == " ":
            result.append(window[at])
        at += 1
    return result


def _trimmed(
    hunk: Hunk, text: list[str], taken: list[bool], expected: int | None
) -> tuple[int, int, list[str]] | None:
    """Without its outermost lines of context."""
    tags = [tag for tag, _ in hunk.body]
    leading = next(i for i, tag in enumerate(tags) if tag != " ")
    trailing = next(i for i, tag in enumerate(reversed(tags)) if tag != " ")
    cuts = [
        (a, b)
        for a in range(min(TRIMMED, leading) + 1)
        for b in range(min(TRIMMED, trailing) + 1)
        if a + b
    ]
    for a, b in sorted(cuts, key=sum):
        inner = hunk._replace(body=hunk.body[a : len(hunk.body) - b])
        old = inner.old
        telling = [line for line in old if len(line.strip()) > 1]
        if len(telling) < (1 if any(tag == "-" for tag, _ in inner.body) else 2):
            continue
        places = [
            i
            for i in range(len(text) - len(old) + 1)
            if not any(taken[i : i + len(old)]) and _but_for_ends(text[i : i + len(old)], old)
        ]
        at = _only(hunk, places, None if expected is None else expected + a)
        if at is not None:
            return at, len(old), _replaced(inner, text[at : at + len(old)], ("", ""))
    return None


def _merged(hunk: Hunk, text: list[str], taken: list[bool]) -> tuple[int, int, list[str]] | None:
    """Three-way, the hunk's own lines as the base: the file has moved on beside its change."""
    old = hunk.old
    removed = Counter(line for tag, line in hunk.body if tag == "-")
    best: dict[tuple[str, ...], tuple[int, int, list[str]]] = {}
    most = max(2.0, KEPT * len(old))
    for at, size in _windows(len(text), len(old)):
        window = text[at : at + size]
        if any(taken[at : at + size]) or removed - Counter(window):
            continue
        blocks = SequenceMatcher(None, old, window, autojunk=False).get_matching_blocks()
        kept = float(sum(block.size for block in blocks))
        if kept < most or (result := merge(old, window, hunk.new)) is None:
            continue
        best = best if kept == most else {}
        most = kept
        whole = (*text[:at], *result, *text[at + size :])
        best.setdefault(whole, (at, size, result))
    return next(iter(best.values())) if len(best) == 1 else None


def _windows(lines: int, size: int) -> Iterator[tuple[int, int]]:
    for wide in range(max(1, size - DRIFT), size + DRIFT + 1):
        for at in range(lines - wide + 1):
            yield at, wide
