"""Which documents of an evaluation a corpus holds, and the scores without them.

A document is contaminated if 13 of its words in a row stand in a document of the corpus; ngrams.py
says what a word is.

- A document of 8 to 12 words is looked for as a whole (the bounds are GPT-3's). Of a shorter one a
  match would mean nothing: it is counted as too short and stays among the clean ones.
- Words that more than 10 documents of a task share are boilerplate and say nothing of any one of
  them. How often the corpus has them does not matter: what leaked is often copied.
- A long text file is read in pieces (`FileShard`); words across the border of two are not seen.

leaks.py finds them. Each shard of the corpus leaves its findings in
W/contamination/, so a scan goes on after a kill; W/contamination.json comes last.
"""

import functools
import json
import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from sbp_jax import files, processes
from sbp_jax.data.corpus import Corpus, Shard, fingerprint
from sbp_jax.data.ngrams import batches, normal_form
from sbp_jax.errors import UserError
from sbp_jax.evaluation import leaks
from sbp_jax.evaluation.leaks import LEAST, SHARED, N
from sbp_jax.evaluation.markdown import table
from sbp_jax.evaluation.scores import Results

FILE = "contamination.json"
log = logging.getLogger(__name__)


def check(
    results: Results, corpus: Corpus, workers: int = 1, on_error: str = "stop"
) -> dict[str, Any]:
    """Writes contamination.json unless it is there for this corpus; returns what is in it.

    on_error is stop or skip, for malformed rows of the corpus.
    """
    samples = {task: entry["sha256"] for task, entry in results.recorded["tasks"].items()}
    key = fingerprint(corpus.fingerprint, samples, on_error, N, LEAST, SHARED)
    work = epath.Path(results.folder) / "contamination"
    with files.exclusive(work / "lock", f"{work}: another process checks this evaluation"):
        if (record := _read(results)) and record.get("key") == key:
            return record
        index = _index(str(results.folder), key)
        parts = [
            _Part(shard, str(results.folder), key, str(work / key[:16] / f"{i:06d}.json"), on_error)
            for i, shard in enumerate(corpus.shards)
        ]
        todo = [part for part in parts if not epath.Path(part.path).exists()]
        processes.run(_scan, todo, len(todo), workers, "contamination: shard")
        done = [json.loads(epath.Path(part.path).read_text()) for part in parts]
        found: dict[int, list[str]] = {}
        for part in reversed(done):  # so that the first place in the corpus stays
            found |= {int(number): place for number, place in part["found"].items()}
        record = {
            "corpus": corpus.name,
            "corpus_documents": sum(part["documents"] for part in done),
            "corpus_skipped": sum(part["skipped"] for part in done),
            "n": N,
            "least": LEAST,
            "key": key,
            "tasks": _tasks(results, index, found),
        }
        files.write_json(results.folder / FILE, record)
        if (work / key[:16]).exists():
            (work / key[:16]).rmtree()
    return record


def clean_documents(results: Results) -> dict[str, np.ndarray]:
    """Of each task that was checked: which documents are clean."""
    masks = {}
    for task, found in ((_read(results) or {}).get("tasks") or {}).items():
        if task in results.tasks:
            hashes = results.tasks[task].hashes
            if found["hashes"] != fingerprint(hashes):
                raise UserError(
                    f"{results.folder / FILE}: {task} had other documents when it was checked; "
                    "run --contamination again, or delete the file"
                )
            masks[task] = np.ones(len(hashes), bool)
            masks[task][found["contaminated"]] = False
    return masks


def markdown(record: dict[str, Any]) -> str:
    """The scores, and beside them those of the clean documents."""
    lines = [["task", "metric", "all documents", "clean documents", "contaminated", "too short"]]
    for task, found in record["tasks"].items():
        count, number = found["documents"], len(found["contaminated"])
        share = f"{number:,} of {count:,} ({number / max(1, count):.1%})"
        for metric, score in found["metrics"].items():
            raw, clean = (
                " ± ".join("–" if x is None else f"{x:.4f}" for x in score[which].values())
                for which in ("raw", "clean")
            )
            lines.append([task, metric, raw, clean, share, f"{found['too_short']:,}"])
    return table(lines, left=2) + (
        f"\nContaminated: shares {N} words in a row with {record['corpus']}, or has {LEAST} to "
        f"{N - 1} and all are there. Shorter documents are too short to tell and count as clean.\n"
    )


@functools.lru_cache(maxsize=1)
def _index(folder: str, key: str) -> leaks.Leaks:
    """Of the evaluation that `key` was made of; every process makes its own."""
    return leaks.of_documents([scores.texts for scores in Results.read(folder).tasks.values()])


@dataclass(frozen=True)
class _Part:
    """One shard of the corpus to be scanned."""

    shard: Shard
    results: str
    key: str
    path: str
    on_error: str


def _scan(part: _Part) -> None:
    index = _index(part.results, part.key)
    found: dict[int, list[str]] = {}
    documents = skipped = 0
    reported = time.monotonic()

    def on_bad_row(error: UserError) -> None:
        nonlocal skipped
        if part.on_error != "skip":
            raise error
        skipped += 1

    read = ((document.id, normal_form(document.text)) for document in part.shard.read(on_bad_row))
    for names, words in batches(read):
        for line, number, gram in index.find(words, found):
            found[number] = [names[line], gram.decode()]
        documents += len(names)
        if time.monotonic() - reported > processes.REPORT_S:
            reported = time.monotonic()
            log.info("contamination: %s: %s documents", part.shard.name, f"{documents:,}")
    files.write_json(part.path, {"documents": documents, "skipped": skipped, "found": found})


def _tasks(results: Results, index: leaks.Leaks, found: dict[int, list[str]]) -> dict[str, Any]:
    tasks, begin = {}, 0
    for task, scores in results.tasks.items():
        end = begin + len(scores.texts)
        contaminated = [number - begin for number in sorted(found) if begin <= number < end]
        kept = np.ones(end - begin, bool)
        kept[contaminated] = False
        tasks[task] = {
            "hashes": fingerprint(scores.hashes),
            "documents": end - begin,
            "contaminated": contaminated,
            "found": {str(i): found[begin + i] for i in contaminated},
            "too_short": int(index.too_short[begin:end].sum()),
            "boilerplate": int(index.boilerplate[begin:end].sum()),
            "clean_documents": int(kept.sum()),
            "metrics": {
                name: {"raw": score.recorded(), "clean": score.only(kept).recorded()}
                for name, score in scores.metrics.items()
            },
        }
        begin = end
    return tasks


def _read(results: Results) -> dict[str, Any] | None:
    path = results.folder / FILE
    try:
        record = json.loads(path.read_text())
        if not isinstance(record["tasks"], dict):
            raise TypeError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged; delete it and run --contamination again") from error
    return record
