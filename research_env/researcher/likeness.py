"""Whether an idea has been had before: by its words, or by the code that it comes to.

Words: the share of single words and pairs of words that two texts have in common (Jaccard). Ideas
that differ in their numbers are never alike: another learning rate is another experiment. Code: two
trees are the same when their Python parses to the same, so comments and layout make no idea.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Mapping
from string import digits
from typing import NamedTuple

_WORDS = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|[^\W\d_]+", re.IGNORECASE)
# Without these, two short texts would be alike by their grammar.
_COMMON = re.compile(
    "an?|and|are|as|at|be|by|for|from|in|instead|into|is|its?|of|on|or|so|that|the|then|this|to|we|"
    "will|with|which|use|using"
)


class Traits(NamedTuple):
    features: frozenset[str]
    numbers: frozenset[float]


def traits(text: str) -> Traits:
    words = [word.casefold() for word in _WORDS.findall(text)]
    numbers = frozenset(float(word) for word in words if word[0] in digits)
    rest = [
        _stem(word)
        for word in words
        if len(word) > 1 and word[0] not in digits and not _COMMON.fullmatch(word)
    ]
    pairs = (f"{a} {b}" for a, b in zip(rest, rest[1:], strict=False))
    return Traits(frozenset([*rest, *pairs]), numbers)


def likeness(a: Traits, b: Traits) -> float:
    """From 0 to 1."""
    if a.numbers != b.numbers:
        return 0.0
    either = len(a.features | b.features)
    return len(a.features & b.features) / either if either else 1.0


def nearest(own: Traits, others: Iterable[tuple[int, Traits]]) -> tuple[int, float] | None:
    """The idea that is most like it, and how much."""
    found = [(likeness(own, other), -number) for number, other in others]
    if not found:
        return None
    best, number = max(found)
    return -number, best


def tree_key(files: Mapping[str, bytes]) -> str:
    """Equal for trees that do the same for all that their text says."""
    digest = hashlib.sha256()
    for path in sorted(files):
        for part in (path.encode("utf-8", "surrogateescape"), _meaning(path, files[path])):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _meaning(path: str, content: bytes) -> bytes:
    if path.endswith(".py"):
        try:
            return ast.dump(ast.parse(content)).encode("utf-8", "surrogatepass")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass  # as text, then
    lines = [row.rstrip() for row in content.rstrip().splitlines()]
    return b"\n".join(lines)


def _stem(word: str) -> str:
    """Without the commonest endings: "decays", "decay"; "warming", "warm"."""
    for ending in ("ing", "es", "ed", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word
