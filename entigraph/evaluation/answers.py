"""The letter that a model's answer comes to, or none.

A letter counts where it is stated: "Answer: B.", "the answer is (b)", or a text that is nothing but
a letter, alone or before its choice. Of several statements the last one is the answer, for a model
that thinks may change its mind; a statement that names several letters is none, and no earlier one
takes its place. What a model says about choices on its way ("option A is tempting") is no answer.
"""

import re

LETTERS = "ABCD"

_STATED = re.compile(
    r"\b(?:answer|choice|option)(?:\s+(?:here|to\s+the\s+question))?[\s*_`\"']*"
    r"(?:[:：=]|\s(?:is|was|would\s+be|should\s+be|must\s+be)\b\s*:?)"
    r"[\s*_`\"'$]*(?:(?:option|choice|letter)\s+)?",
    re.IGNORECASE,
)
_OPEN, _CLOSE = r"(?:\\boxed\{|\\text\{|[(\[{<*_`\"'$])*", r"(?:[)\]}>*_`\"$]|'(?!\w))*"
# Another letter right after: "B and C", "A, B", "A/B". A comma needs a letter that stands alone.
_ANOTHER = re.compile(
    rf"\s*(?:,\s*(?:and|or)\b|,|/|&|\+|\band\b|\bor\b)\s*(?:(?:option|choice)\s+)?"
    rf"{_OPEN}[A-Za-z]{_CLOSE}(?![\w'’-])",
)
_LETTER = re.compile(rf"{_OPEN}([A-Za-z]){_CLOSE}")
# "A" and "a" begin nouns too; before these words they do not.
_AFTER_A = re.compile(r"\s+(?:because|since|as|for|but|not|that|which|and|or|according)\b")
_CHOICE = re.compile(r"[(\[]?([A-D])[.):\]]\s+(?!.*\b[A-D][.):\]])\S.*")


def letter(text: str) -> int | None:
    """The number of the choice that `text` ends in, 0 for A."""
    stated = [found for m in _STATED.finditer(text) if (found := _named(text[m.end() :]))]
    if stated:
        return _number(stated[-1])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    alone = _LETTER.match(lines[-1])
    if alone and not lines[-1][alone.end() :].strip(" .!*_`"):
        return _number(alone[1])
    if len(lines) == 1 and (choice := _CHOICE.fullmatch(lines[0])):
        return _number(choice[1])
    return None


def _named(rest: str) -> str:
    """The letters that a statement names: one, or "several"; nothing where it names none."""
    found = _LETTER.match(rest)
    if not found:
        return ""
    name, bare = found[1], found[0] == found[1]
    after = rest[found.end() :]
    if bare and re.match(r"[\w'’-]|\.\w", after):  # the beginning of a word or an abbreviation
        return ""
    if _ANOTHER.match(after):
        return "several"
    a_word_follows = re.match(r"[ \t]+[\w\"'“]", after)
    if bare and a_word_follows and (name.islower() or name == "A") and not _AFTER_A.match(after):
        return ""
    return name


def _number(name: str) -> int | None:
    place = LETTERS.find(name.upper()) if len(name) == 1 else -1
    return place if place >= 0 else None
