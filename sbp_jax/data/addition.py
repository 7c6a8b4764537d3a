"""One-digit addition, the smallest thing to reason about: a corpus, and problems with answers."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from sbp_jax.data.corpus import Corpus, Document, OnBadRow, fingerprint

SUMS = tuple((a, b) for a in range(10) for b in range(10))


def question(a: int, b: int) -> str:
    return f"{a} + {b} ="


@dataclass(frozen=True)
class Sums:
    """All hundred, right, in an order of no meaning."""

    name: str = "sums"

    def read(self, on_bad_row: OnBadRow) -> Iterator[Document]:
        for a, b in random.Random(0).sample(SUMS, len(SUMS)):
            yield Document(f"{a}+{b}", f"{question(a, b)} {a + b}", "addition")


def corpus() -> Corpus:
    return Corpus("addition", [Sums()], fingerprint("addition"))
