"""Which texts are nearly alike: the largest overlap with any document of a corpus, and duplicates
among texts themselves. Both are exact in what they report, and hold hashes in memory, not texts.

Overlap is pairing.overlap's: the share of the shorter one's shingles. A pair that overlaps by t or
more shares one of the shorter one's rarest shingles, the share 1 - t of them, so only pairs that do
are looked at. Duplicates are told by Jaccard's measure, and found by MinHash: 20 bands of 5 find
99.96% of pairs that are alike by 0.8, and 97.5% by 0.7.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from sbp_jax import files, processes
from sbp_jax.data.corpus import Corpus, Shard, read_documents
from sbp_jax.pairing.embed import save
from sbp_jax.pairing.overlap import shingles

TOGETHER = 1_000  # texts whose shingles are made together
BLOCK = 1 << 24  # shingles of texts that one reading of the corpus compares: 1 GB with the index
CHUNK = 1 << 22  # hashes compared at one time
BANDS, ROWS = 20, 5


@dataclass(frozen=True)
class Sets:
    """The shingles of texts: sorted hashes, sizes[i] of them from starts[i] on. Parts are views."""

    hashes: np.ndarray  # in memory or in a file
    starts: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, which: np.ndarray | slice) -> "Sets":
        return Sets(self.hashes, self.starts[which], self.sizes[which])

    def flat(self) -> np.ndarray:
        """All of them, text after text."""
        ends = np.cumsum(self.sizes)
        places = np.arange(self.sizes.sum())
        places += np.repeat(self.starts - ends + self.sizes, self.sizes)
        return np.asarray(self.hashes[places])

    def texts(self) -> np.ndarray:
        """The number of the text that each of them is of."""
        return np.repeat(np.arange(len(self)), self.sizes)


class Spool:
    """Shingles of texts on their way to a file, of which the system keeps in memory what it can."""

    def __init__(self, folder: Path):
        self._path = folder / "shingles.bin"
        folder.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(b"")
        self._sizes: list[int] = []

    def add(self, found: list[np.ndarray]) -> None:
        self._sizes += map(len, found)
        with self._path.open("ab") as file:
            for hashes in found:
                hashes.tofile(file)

    def sets(self) -> Sets:
        some = any(self._sizes)  # an empty file cannot be mapped
        hashes = np.memmap(self._path, np.uint64, "r") if some else np.zeros(0, np.uint64)
        return _sets(hashes, self._sizes)


def sets_of(texts: list[str], shingle: int) -> Sets:
    found = shingles(texts, shingle)
    return _sets(np.concatenate([np.zeros(0, np.uint64), *found]), list(map(len, found)))


def _sets(hashes: np.ndarray, sizes: list[int]) -> Sets:
    counts = np.array(sizes, np.int64)
    return Sets(hashes, np.cumsum(counts) - counts, counts)


def shared(a: Sets, i: np.ndarray, b: Sets, j: np.ndarray) -> np.ndarray:
    """How many shingles the texts a[i] and b[j] have in common."""
    counts = [np.zeros(0, np.int64)]
    for begin, end in _pieces(a.sizes[i] + b.sizes[j], CHUNK):
        sides = [a.take(i[begin:end]), b.take(j[begin:end])]
        _, label = np.unique(np.concatenate([s.flat() for s in sides]), return_inverse=True)
        pair = np.concatenate([s.texts() for s in sides])
        keys = np.sort(pair * (len(label) + 1) + label)
        twice = keys[1:][keys[1:] == keys[:-1]]
        counts.append(np.bincount(twice // (len(label) + 1), minlength=end - begin))
    return np.concatenate(counts)


def largest_overlaps(
    sets: Sets,
    corpus: Corpus,
    shingle: int,
    work: Path,
    *,
    at_least: float = 0.0,
    on_error: str = "stop",
    workers: int = 1,
) -> np.ndarray:
    """Of each text, with any document of the corpus; 0 where it is below `at_least`. `work` belongs
    to these texts and this corpus: what it holds of an interrupted call is not done again.
    """
    largest = [np.zeros(0, np.float32)]
    for begin, end in _pieces(sets.sizes, BLOCK):
        place = work / f"block-{begin:09d}"
        part = sets.take(slice(begin, end))
        save(place / "hashes.npy", part.flat())
        save(place / "sizes.npy", part.sizes)
        tasks = [
            _Scan(shard, str(place), i, shingle, at_least, on_error)
            for i, shard in enumerate(corpus.shards)
        ]
        missing = [task for task in tasks if not task.path.exists()]
        processes.run(_scan, missing, len(missing), workers, "overlap with the corpus: shard")
        found = [np.load(task.path) for task in tasks]
        largest.append(functools.reduce(np.maximum, found, np.zeros(end - begin, np.float32)))
    return np.concatenate(largest)


@dataclass(frozen=True)
class _Scan:
    """A shard of the corpus, against a block of texts."""

    shard: Shard
    place: str
    number: int
    shingle: int
    at_least: float
    on_error: str

    @property
    def path(self) -> Path:
        return Path(self.place) / f"largest-{self.number:06d}.npy"


def _scan(scan: _Scan) -> None:
    block = _block(scan.place, scan.at_least)
    largest = np.zeros(len(block.sets), np.float32)
    read = read_documents(Corpus(scan.shard.name, [scan.shard], ""), scan.on_error)
    while some := [document.text for document in islice(read, TOGETHER)]:
        block.compare(sets_of(some, scan.shingle), largest)
    save(scan.path, largest)


@functools.lru_cache(maxsize=1)
def _block(place: str, at_least: float) -> "_Block":
    hashes, sizes = (np.load(Path(place) / f"{name}.npy") for name in ("hashes", "sizes"))
    return _Block(_sets(hashes, sizes.tolist()), at_least)


class _Block:
    """Texts by their shingles: for each that any has, the texts that have it, those first to which
    it is one of the rarest.
    """

    def __init__(self, sets: Sets, at_least: float):
        self.sets, self.at_least = sets, at_least
        self.known, label, count = np.unique(sets.flat(), return_inverse=True, return_counts=True)
        rare = self._rare(sets, count[label])
        order = np.lexsort((~rare, label))
        self.texts = sets.texts()[order].astype(np.int32)
        self.begin = np.concatenate([[0], np.cumsum(count)])
        self.rare = np.bincount(label[rare], minlength=len(count))  # texts to which it is rare

    def _rare(self, sets: Sets, frequency: np.ndarray) -> np.ndarray:
        """Of each shingle, whether it is among those of which a text of `sets` has to share one."""
        order = np.lexsort((frequency, sets.texts()))
        rank = np.empty(len(order), np.int64)
        begins = np.cumsum(sets.sizes) - sets.sizes
        rank[order] = np.arange(len(order)) - np.repeat(begins, sets.sizes)
        needed = np.ceil(sets.sizes * self.at_least - 1e-6)
        return rank <= np.repeat(sets.sizes - needed, sets.sizes)

    def compare(self, documents: Sets, largest: np.ndarray) -> None:
        """Raises `largest` to the overlaps with these documents."""
        if not len(self.known):
            return
        hashes = documents.flat()
        place = np.minimum(np.searchsorted(self.known, hashes), len(self.known) - 1)
        there = self.known[place] == hashes
        frequency = np.where(there, self.begin[place + 1] - self.begin[place], 0)
        all_of = self._rare(documents, frequency)
        lengths = np.where(all_of, frequency, np.where(there, self.rare[place], 0))
        document = documents.texts()
        pairs, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for begin, end in _pieces(lengths, CHUNK):  # a common shingle is in many texts
            some = lengths[begin:end]
            offset = np.arange(some.sum()) - np.repeat(np.cumsum(some) - some, some)
            text = self.texts[np.repeat(self.begin[place[begin:end]], some) + offset]
            found = np.repeat(document[begin:end], some) * len(self.sets) + text
            for part, values in zip(
                (pairs, counts), np.unique(found, return_counts=True), strict=True
            ):
                part.append(values)
        pair, which = np.unique(np.concatenate(pairs), return_inverse=True)
        d, t = np.divmod(pair, len(self.sets))
        if self.at_least:
            common = shared(self.sets, t, documents, d)
        else:  # all shingles were rare enough to be looked at
            common = np.bincount(which, np.concatenate(counts), len(pair))
        overlap = (common / np.minimum(self.sets.sizes[t], documents.sizes[d])).astype(np.float32)
        kept = overlap >= np.float32(self.at_least)
        np.maximum.at(largest, t[kept], overlap[kept])


def repeats(sets: Sets, above: float) -> np.ndarray:
    """Of each text, whether it is nearly a text before it that is not such a repeat itself: their
    shingles are alike, by Jaccard's measure, by more than `above`.
    """
    later_of: dict[int, list[int]] = {}
    for a, b in _alike(sets, above).tolist():
        later_of.setdefault(b, []).append(a)
    gone = np.zeros(len(sets), bool)
    for b in sorted(later_of):
        gone[b] = not all(gone[a] for a in later_of[b])
    return gone


def _alike(sets: Sets, above: float) -> np.ndarray:
    """Pairs of numbers, the smaller first. In a bucket of many, each text is tried with the first
    and with the one before it: the work stays linear where thousands are the same.
    """
    bands = _bands(sets)
    found = np.zeros(0, np.int64)
    n = len(sets)
    for band in bands:
        order = np.argsort(band, kind="stable")
        new = np.diff(band[order], prepend=~band[order[:1]]) != 0
        first = order[np.maximum.accumulate(np.where(new, np.arange(n), 0))]
        before = np.roll(order, 1)
        pairs = np.concatenate([first[~new], before[~new]]) * n + np.tile(order[~new], 2)
        pairs = np.setdiff1d(pairs, found)
        a, b = np.divmod(pairs, n)
        common = shared(sets, a, sets, b)
        alike = common / np.maximum(1, sets.sizes[a] + sets.sizes[b] - common) > above
        found = np.concatenate([found, pairs[alike]])
    return np.stack(np.divmod(np.sort(found), n), axis=1) if n else np.zeros((0, 2), np.int64)


def _bands(sets: Sets) -> np.ndarray:
    """The hash of each band of each text's MinHash signature; a text without words has one that no
    other has.
    """
    bands = np.empty((BANDS, len(sets)), np.uint64)
    for begin, end in _pieces(sets.sizes, CHUNK):
        part = sets.take(slice(begin, end))
        bands[:, begin:end] = np.arange(begin, end, dtype=np.uint64)
        words = np.flatnonzero(part.sizes)
        mixed, begins = _mixed(part.flat()), np.cumsum(part.sizes) - part.sizes
        for band in range(BANDS if len(words) else 0):
            total = np.zeros(len(words), np.uint64)
            for row in range(ROWS):
                permuted = mixed * _odd(band * ROWS + row)
                permuted ^= permuted >> np.uint64(32)
                smallest = np.minimum.reduceat(permuted, begins[words])
                total = _mixed(total ^ smallest)
            bands[band, begin + words] = total
    return bands


def _pieces(sizes: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Begin and end of parts whose sizes add up to `most`, or of one item that is larger."""
    ends, begin = np.cumsum(sizes), 0
    while begin < len(sizes):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + most, "right")))
        yield begin, end
        begin = end


def _odd(number: int) -> np.uint64:
    return np.uint64(int(files.sha256(b"MinHash %d" % number)[:16], 16) | 1)


def _mixed(x: np.ndarray) -> np.ndarray:
    """Every bit depends on every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
