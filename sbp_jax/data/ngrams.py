"""The words of texts, and hashes of every n of them in a row, at tens of MB a second.

Words are runs of letters and digits in lower case: punctuation, spacing and line ends, and whether
an accent is a character of its own, do not matter. Nothing loops over words in Python.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

BATCH_BYTES = 1 << 18  # hashed at once: larger arrays leave a core's cache
# Twice as fast as one regular expression for all gaps.
OTHER_GAPS = re.compile(r"[^\w\x00-\x7f]+")
ASCII_WORDS = bytes(
    b if b > 127 else ord(chr(b).lower()) if chr(b).isalnum() else 32 for b in range(256)
)


def normal_form(text: str) -> bytes:
    """The words, with a space between them."""
    if not text.isascii():
        text = OTHER_GAPS.sub(" ", unicodedata.normalize("NFC", text).lower())
    return b" ".join(text.encode(errors="replace").translate(ASCII_WORDS).split())


class Words:
    """The words of documents, a line each, and hashes of any number of them in a row.

    sums[i] is the hash of the text's beginning, a polynomial modulo 2^64. That of a part is a
    difference, divided by a power of the base: without a loop over words, bytes or documents.
    """

    def __init__(self, lines: Iterable[bytes]):
        self.text = b"\n".join(lines)
        codes = np.frombuffer(self.text, np.uint8)
        gaps = np.flatnonzero(codes <= 32)
        self.starts = np.concatenate([[0], gaps + 1])
        self.stops = np.concatenate([gaps, [len(codes)]])
        self.lines = np.concatenate([[0], np.cumsum(codes[gaps] == ord("\n"))])
        powers, self._inverses = _powers(1 << max(16, len(codes).bit_length()))
        self._sums = np.zeros(len(codes) + 1, np.uint64)
        np.cumsum(codes * powers[: len(codes)], out=self._sums[1:])

    def grams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The first word, and the hash, of every n words in a row that one document has."""
        first = np.flatnonzero(self.lines[: -n + 1 or None] == self.lines[n - 1 :])
        starts, stops = self.starts[first], self.stops[first + n - 1]
        return first, (self._sums[stops] - self._sums[starts]) * self._inverses[starts]

    def gram(self, first: int, n: int) -> bytes:
        return self.text[self.starts[first] : self.stops[first + n - 1]]


@functools.lru_cache(maxsize=2)
def _powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of an odd number, and of its inverse modulo 2^64."""
    base = 0x9E3779B97F4A7C15
    both = [np.full(size, b, np.uint64) for b in (base, pow(base, -1, 1 << 64))]
    return tuple(np.multiply.accumulate(b) for b in both)  # type: ignore[return-value]


def batches(documents: Iterable[tuple[Any, bytes]]) -> Iterator[tuple[list[Any], Words]]:
    """Names of documents that have words, and these."""
    names: list[Any] = []
    lines: list[bytes] = []
    size = 0
    for name, line in documents:
        if line:
            names.append(name)
            lines.append(line)
            size += len(line)
        if size >= BATCH_BYTES:
            yield names, Words(lines)
            names, lines, size = [], [], 0
    if names:
        yield names, Words(lines)
