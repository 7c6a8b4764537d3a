"""The words in a row by which evaluation documents are known wherever they leak to: N of them, or a
whole document of LEAST to N - 1 words. Hashes find the candidates, their words decide.
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sbp_jax.data.ngrams import Words, batches, normal_form

N = 13
LEAST = 8  # of a shorter document a match would mean nothing; both bounds are GPT-3's
SHARED = 10  # documents of a task: what more of them have is boilerplate, and tells none of them


@dataclass(frozen=True)
class Leaks:
    """The grams of documents, which are numbered in one row, those of all tasks."""

    texts: list[bytes]
    too_short: np.ndarray  # [documents]
    boilerplate: np.ndarray  # [documents], nothing else in them
    hashes: np.ndarray  # of grams, sorted
    documents: np.ndarray  # that have them
    lengths: list[int]  # of grams, in words
    sieve: np.ndarray  # whether a gram's hash begins with these bits: most lookups end here

    def find(self, words: Words, known: Container[int] = ()) -> Iterator[tuple[int, int, bytes]]:
        """The line of `words`, the document that it holds a gram of, the gram. A document that is
        `known` already is not looked for.
        """
        for n in self.lengths:
            first, hashes = words.grams(n)
            maybe = np.flatnonzero(self.sieve[_first_bits(hashes, self.sieve)])
            begin, end = (
                np.searchsorted(self.hashes, hashes[maybe], side) for side in ("left", "right")
            )
            for i in np.flatnonzero(end > begin):
                gram = words.gram(first[maybe[i]], n)
                for number in self.documents[begin[i] : end[i]].tolist():
                    if number not in known and b" %b " % gram in b" %b " % self.texts[number]:
                        yield int(words.lines[first[maybe[i]]]), number, gram


def of_documents(tasks: Sequence[Sequence[str]]) -> Leaks:
    """Of the texts of each task."""
    task = np.repeat(np.arange(len(tasks)), [len(texts) for texts in tasks])
    texts = [normal_form(text) for some in tasks for text in some]
    words = np.array([text.count(b" ") + 1 if text else 0 for text in texts], int)
    hash_parts, document_parts, lengths = [np.zeros(0, np.uint64)], [np.zeros(0, int)], []
    for n in range(LEAST, N + 1):
        known = np.flatnonzero(words == n if n < N else words >= N).tolist()
        lengths += [n] if known else []
        for numbers, batch in batches((number, texts[number]) for number in known):
            first, part = batch.grams(n)
            hash_parts.append(part)
            document_parts.append(np.array(numbers)[batch.lines[first]])
    hashes, documents = np.concatenate(hash_parts), np.concatenate(document_parts)
    order = np.lexsort((documents, hashes))
    hashes, documents = hashes[order], documents[order]
    new_hash = np.diff(hashes, prepend=~hashes[:1]) != 0
    once = new_hash | (np.diff(documents, prepend=-1) != 0)
    hashes, documents, new_hash = hashes[once], documents[once], new_hash[once]
    new_group = new_hash | (np.diff(task[documents], prepend=-1) != 0)
    group = np.cumsum(new_group) - 1
    own = np.bincount(group)[group] <= SHARED
    hashes, documents = hashes[own], documents[own]
    sieve = np.zeros(1 << min(26, max(16, 4 + len(hashes).bit_length())), bool)
    sieve[_first_bits(hashes, sieve)] = True
    boilerplate = words >= LEAST
    boilerplate[documents] = False
    return Leaks(texts, words < LEAST, boilerplate, hashes, documents, lengths, sieve)


def _first_bits(hashes: np.ndarray, sieve: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(65 - len(sieve).bit_length())).astype(np.int64)
