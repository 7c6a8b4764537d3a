"""Which n-grams of some texts are nowhere in a corpus: each of its shards is read once, for all n,
and leaves what it found, so that an interrupted count goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sbp_jax import processes
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Corpus, Shard, read_documents
from sbp_jax.data.ngrams import batches, normal_form
from sbp_jax.pairing.embed import save
from sbp_jax.synthesis.figures import ratio

NOVEL = (1, 2, 3, 4, 8)


def novelty(corpus: Corpus, texts: Sequence[str], e: Experiment, work: Path) -> dict[str, Any]:
    """The figures novelty_1 to novelty_8. `work` belongs to these texts and this corpus."""
    grams: dict[int, list[np.ndarray]] = {n: [] for n in NOVEL}
    owners: dict[int, list[np.ndarray]] = {n: [] for n in NOVEL}
    for numbers, words in batches((i, normal_form(text)) for i, text in enumerate(texts)):
        for n in NOVEL:
            first, hashes = words.grams(n)
            grams[n].append(hashes)
            owners[n].append(np.array(numbers)[words.lines[first]])
    none = np.zeros(0, np.uint64)
    every = {n: np.concatenate([none, *grams[n]]) for n in NOVEL}
    known = [np.unique(every[n]) for n in NOVEL]
    for n, hashes in zip(NOVEL, known, strict=True):
        save(work / f"grams-{n}.npy", hashes)
    tasks = [_Scan(shard, str(work), i, e.data.on_error) for i, shard in enumerate(corpus.shards)]
    missing = [task for task in tasks if not task.path.exists()]
    processes.run(_scan, missing, len(missing), e.data.workers, "novelty: shard of the corpus")
    found = np.zeros(sum(map(len, known)), bool)
    for task in tasks:
        found |= np.load(task.path)
    figures = {}
    for n, hashes, there in zip(
        NOVEL, known, np.split(found, np.cumsum([len(h) for h in known])[:-1]), strict=True
    ):
        novel = ~there[np.searchsorted(hashes, every[n])]
        owner = np.concatenate([np.zeros(0, np.int64), *owners[n]])
        counts = np.bincount(owner, minlength=len(texts))
        figures[f"novelty_{n}"] = ratio(np.bincount(owner, novel, len(texts)), counts)
    return figures


@dataclass(frozen=True)
class _Scan:
    """A shard of the corpus, in which n-grams are looked for."""

    shard: Shard
    work: str
    number: int
    on_error: str

    @property
    def path(self) -> Path:
        return Path(self.work) / f"found-{self.number:06d}.npy"


def _scan(scan: _Scan) -> None:
    known = [np.load(Path(scan.work) / f"grams-{n}.npy") for n in NOVEL]
    found = [np.zeros(len(hashes), bool) for hashes in known]
    documents = read_documents(Corpus(scan.shard.name, [scan.shard], ""), scan.on_error)
    for _, words in batches((None, normal_form(document.text)) for document in documents):
        for n, hashes, there in zip(NOVEL, known, found, strict=True):
            if len(hashes):
                grams = np.unique(words.grams(n)[1])
                place = np.minimum(np.searchsorted(hashes, grams), len(hashes) - 1)
                there[place[hashes[place] == grams]] = True
    save(scan.path, np.concatenate(found))
