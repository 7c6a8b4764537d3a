"""How much of the shorter of two documents stands in the other: the share of its shingles.

A copy inside a longer document overlaps in full, which Jaccard's measure would not show. A document
shorter than a shingle is one itself. Words are those of ngrams.py: case and punctuation do not
matter.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbp_jax import files, processes
from sbp_jax.data.ngrams import batches, normal_form
from sbp_jax.pairing.embed import Documents, save

PAIRS = 20_000  # of a task


def overlaps(
    neighbors: Path, work: Path, shingle: int, workers: int
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function of documents' numbers; what it has found stays in `work` until it is removed."""

    def of(d1: np.ndarray, d2: np.ndarray) -> np.ndarray:
        tasks = [
            _Task(str(neighbors), str(work), shingle, d1[at : at + PAIRS], d2[at : at + PAIRS])
            for at in range(0, len(d1), PAIRS)
        ]
        missing = [task for task in tasks if not task.path.exists()]
        processes.run(_measure, missing, len(missing), workers, "pair: overlaps")
        return np.concatenate([np.zeros(0, np.float32), *(np.load(task.path) for task in tasks)])

    return of


@dataclass(frozen=True)
class _Task:
    neighbors: str
    work: str
    shingle: int
    d1: np.ndarray
    d2: np.ndarray

    @functools.cached_property
    def path(self) -> Path:
        name = files.sha256(b"%d " % self.shingle + self.d1.tobytes() + self.d2.tobytes())[:16]
        return Path(self.work) / f"overlap-{name}.npy"


def _measure(task: _Task) -> None:
    numbers = np.unique([task.d1, task.d2])
    texts = Documents(Path(task.neighbors)).column("text", numbers)
    sets = shingles(texts, task.shingle)
    a, b = (np.searchsorted(numbers, d) for d in (task.d1, task.d2))
    shares = [overlap(sets[i], sets[j]) for i, j in zip(a, b, strict=True)]
    save(task.path, np.array(shares, np.float32))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    least = min(len(a), len(b))
    return len(np.intersect1d(a, b, assume_unique=True)) / least if least else 0.0


def shingles(texts: list[str], n: int) -> list[np.ndarray]:
    """The hashes of every n words in a row of each text, sorted, each once."""
    lines = [normal_form(text) for text in texts]
    found = [
        np.array([int(files.sha256(line)[:16], 16)] if line else [], np.uint64) for line in lines
    ]
    for names, words in batches(enumerate(lines)):
        first, hashes = words.grams(n)
        if not len(hashes):
            continue
        document = np.array(names)[words.lines[first]]
        order = np.lexsort((hashes, document))
        document, hashes = document[order], hashes[order]
        which, starts = np.unique(document, return_index=True)
        for name, some in zip(which, np.split(hashes, starts[1:]), strict=True):
            found[name] = np.unique(some)
    return found
