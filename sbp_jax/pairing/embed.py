"""From a corpus to the nearest neighbours of its documents: a folder; its manifest comes last.

    FOLDER/documents/00000-0000.arrow   ids, texts, sources: not packed, so that any row is one read
    FOLDER/documents/00000.json         how many files a shard of the corpus became
    FOLDER/vectors.npy                  of all documents, in their order
    FOLDER/scores.npy, ids.npy          of each document's neighbours, best first

Each file is one task's, written whole under its name: what is there is not done again, and who did
it, with how many others, in processes here or on a Ray cluster (ray.py), does not show. Filters are
not part of this, so that a sweep over thresholds, and the control with random pairs, share one
folder.
"""

import functools
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sbp_jax import files, processes
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Corpus, Document, Shard
from sbp_jax.data.ngrams import normal_form
from sbp_jax.data.tokens import refuse_other_inputs
from sbp_jax.errors import UserError
from sbp_jax.pairing import lexical
from sbp_jax.pairing.neighbors import nearest_neighbors

KIND = "neighbors"
DOCUMENTS, TEXT = 20_000, 1 << 26  # of a file at most; characters of text
BATCH = 1_000  # documents embedded at one time
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("characters", pa.int64()),
        ("words", pa.uint64()),  # a hash of all of them in order: equal for repeats
    ]
)
log = logging.getLogger(__name__)


class Run(Protocol):
    """Does all tasks, in any order, each in one of several processes. `opened` gives the function
    that does them, where they are done: `by_model` says that it holds a model.
    """

    def __call__(
        self,
        opened: Callable[[], Callable[[Any], object]],
        tasks: Sequence[Any],
        what: str,
        by_model: bool = False,
    ) -> None: ...


def here(workers: int) -> Run:
    """In processes of this machine; with a model, which has all of its devices, in this one."""

    def run(opened, tasks, what, by_model=False):
        if tasks:
            processes.run(opened(), tasks, len(tasks), 1 if by_model else workers, what)

    return run


def find_neighbors(
    corpus: Corpus,
    experiment: Experiment,
    folder: Path,
    checkpoint: str | None = None,
    run: Run | None = None,
) -> dict[str, Any]:
    """Makes the folder unless it is there; returns its manifest. `run` does what can be divided;
    by default `here`.
    """
    e, pairing = experiment, experiment.pairing
    inputs = {
        "corpus": corpus.name,
        "corpus_fingerprint": corpus.fingerprint,
        "on_error": e.data.on_error,
        "embedder": pairing.embedder,
        "neighbors": pairing.neighbors,
    }
    if pairing.embedder == "lexical":
        inputs["dimensions"] = pairing.dimensions
    else:
        from sbp_jax.training.checkpoint import fingerprint

        model = pairing.model or checkpoint
        if not model:
            raise UserError("--checkpoint is missing: config.pairing.embedder=self takes its model")
        inputs |= {"model": fingerprint(model), "max_tokens": pairing.max_tokens}
        inputs |= {"engine": pairing.engine}
    if files.has_manifest(folder):
        manifest = files.read_manifest(folder)
        refuse_other_inputs(folder, manifest, inputs)
        return manifest
    with files.exclusive(folder / ".lock", f"{folder}: another process is at work there"):
        plan = folder / "plan.json"
        if plan.exists() and any((folder / "documents").glob("*.json")):  # else nothing is done yet
            refuse_other_inputs(folder, json.loads(plan.read_text()), inputs)
        files.write_json(plan, inputs)
        run = run or here(e.data.workers)
        parts, skipped = _write_documents(corpus, experiment, folder, run)
        repeated = _repeated_ids(parts)
        if repeated:
            log.warning(
                "%s: %s documents have the id of another; what is validated, and where a text "
                "comes from, goes by ids: give each its own",
                corpus.name,
                f"{repeated:,}",
            )
        vectors = _embed(experiment, checkpoint, folder, parts, run)
        log.info("neighbors: %s documents x %d", f"{len(vectors):,}", vectors.shape[1])
        scores, ids = nearest_neighbors(vectors, min(pairing.neighbors, len(vectors) - 1))
        save(folder / "scores.npy", scores)
        save(folder / "ids.npy", ids)
        manifest = {
            "kind": KIND,
            **inputs,
            "documents": len(vectors),
            "skipped": skipped,
            "repeated_ids": repeated,
            "files": [str(path.relative_to(folder)) for path in parts],
        }
        files.write_manifest(folder, manifest)
        plan.unlink()
    return manifest


class Documents:
    """What a folder says of its documents, by number. Texts stay on the disk until they are asked
    for.
    """

    def __init__(self, folder: Path):
        self._table = pa.concat_tables(
            [
                pa.ipc.open_file(pa.memory_map(str(folder / name))).read_all()
                for name in files.read_manifest(folder)["files"]
            ]
        )
        self._opened: dict[str, tuple[list[pa.Array], np.ndarray]] = {}
        self.characters = self._table["characters"].to_numpy()
        self.words = self._table["words"].to_numpy()
        sources = self._table["source"].dictionary_encode().combine_chunks()
        self.sources = sources.indices.to_numpy()
        self.vectors = np.load(folder / "vectors.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.characters)

    def column(self, name: str, numbers: np.ndarray) -> list[str]:
        """Batch by batch: Arrow's own `take` would copy the column of all documents together."""
        batches, starts = self._batches(name)
        numbers = np.asarray(numbers)
        which = np.searchsorted(starts, numbers, side="right") - 1
        order = np.argsort(which, kind="stable")
        values: list[str] = [""] * len(numbers)
        for places in np.split(order, np.flatnonzero(np.diff(which[order])) + 1):
            if len(places):
                batch = which[places[0]]
                taken = batches[batch].take(pa.array(numbers[places] - starts[batch])).to_pylist()
                for place, value in zip(places.tolist(), taken, strict=True):
                    values[place] = value
        return values

    def _batches(self, name: str) -> tuple[list[pa.Array], np.ndarray]:
        if name not in self._opened:
            batches = self._table[name].chunks
            lengths = np.array([len(batch) for batch in batches])
            self._opened[name] = batches, np.cumsum(lengths) - lengths
        return self._opened[name]


@dataclass(frozen=True)
class _Read:
    """A shard of the corpus, to be written as files of documents."""

    folder: str
    index: int
    shard: Shard
    on_error: str

    @property
    def record(self) -> Path:
        return Path(self.folder) / "documents" / f"{self.index:05d}.json"

    def part(self, number: int) -> Path:
        return self.record.with_name(f"{self.index:05d}-{number:04d}.arrow")


def _write_documents(
    corpus: Corpus, experiment: Experiment, folder: Path, run: Run
) -> tuple[list[Path], int]:
    tasks = [
        _Read(str(folder), i, shard, experiment.data.on_error)
        for i, shard in enumerate(corpus.shards)
    ]
    missing = [task for task in tasks if not task.record.exists()]
    run(_Opened(_read), missing, "pair: shards of the corpus read")
    records = [json.loads(task.record.read_text()) for task in tasks]
    parts = [t.part(i) for t, r in zip(tasks, records, strict=True) for i in range(r["parts"])]
    if sum(record["documents"] for record in records) < 2:
        raise UserError(f"{corpus.name}: fewer than two documents in it; a pair needs two")
    return parts, sum(record["skipped"] for record in records)


def _repeated_ids(parts: list[Path]) -> int:
    ids = pa.chunked_array([chunk for part in parts for chunk in _table(part)["id"].chunks])
    return len(ids) - pc.count_distinct(ids).as_py()


def _read(task: _Read) -> None:
    skipped = documents = parts = size = 0
    some: list[Document] = []

    def on_bad_row(error: UserError) -> None:
        nonlocal skipped
        if task.on_error != "skip":
            raise error
        skipped += 1

    def flush() -> None:
        nonlocal some, size, parts, documents
        if some:
            files.write_bytes(task.part(parts), _arrow(some))
            parts, documents = parts + 1, documents + len(some)
        some, size = [], 0

    for document in task.shard.read(on_bad_row):
        some.append(document)
        size += len(document.text)
        if len(some) >= DOCUMENTS or size >= TEXT:
            flush()
    flush()
    files.write_json(task.record, {"parts": parts, "documents": documents, "skipped": skipped})


def _arrow(documents: list[Document]) -> bytes:
    columns = [
        [d.id for d in documents],
        [d.text for d in documents],
        [d.source for d in documents],
        [len(d.text) for d in documents],
        [int(files.sha256(normal_form(d.text))[:16], 16) for d in documents],
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), max_chunksize=BATCH)
    return sink.getvalue().to_pybytes()


@dataclass(frozen=True)
class _Opened:
    """A function that needs nothing to be opened."""

    function: Callable[[Any], object]

    def __call__(self) -> Callable[[Any], object]:
        return self.function


@dataclass(frozen=True)
class _Piece:
    """Some documents of a file, to be embedded."""

    part: str
    start: int

    @property
    def vectors(self) -> Path:
        return Path(self.part).with_suffix(f".{self.start:06d}.vectors.npy")

    def texts(self) -> list[str]:
        return _table(Path(self.part))["text"].slice(self.start, BATCH).to_pylist()


def _embed(
    experiment: Experiment, checkpoint: str | None, folder: Path, parts: list[Path], run: Run
) -> np.ndarray:
    """The vectors of all documents, mapped from their file."""
    whole, pairing = folder / "vectors.npy", experiment.pairing
    pieces = [
        _Piece(str(part), start)
        for part in parts
        for start in range(0, _table(part).num_rows, BATCH)
    ]
    if not whole.exists():
        missing = [piece for piece in pieces if not piece.vectors.exists()]
        what, by_model = f"pair: batches of {BATCH:,} documents embedded", True
        opened: Callable[[], Callable[[Any], object]] = _ByModel(experiment, checkpoint)
        if pairing.embedder == "lexical":
            weights, by_model = _frequencies(folder, parts, run), False
            opened = _Opened(functools.partial(_weigh, str(weights), pairing.dimensions))
        run(opened, missing, what, by_model=by_model)
        _join(pieces, whole, centered=pairing.embedder == "self")
    for path in (*(piece.vectors for piece in pieces), *map(_counts, parts)):
        path.unlink(missing_ok=True)
    return np.load(whole, mmap_mode="r")


def _frequencies(folder: Path, parts: list[Path], run: Run) -> Path:
    """What each word weighs, which takes all documents."""
    path = folder / "frequencies.npy"
    if not path.exists():
        missing = [part for part in parts if not _counts(part).exists()]
        run(_Opened(_count), missing, "pair: files counted")
        counts = sum(np.load(_counts(part)) for part in parts)
        save(path, lexical.weights(counts, sum(_table(part).num_rows for part in parts)))
    return path


def _count(part: Path) -> None:
    counts = [lexical.count(texts) for texts in _texts(part)]
    save(_counts(part), np.sum(counts, axis=0))


def _weigh(frequencies: str, dimensions: int, piece: _Piece) -> None:
    save(piece.vectors, lexical.embed(piece.texts(), np.load(frequencies), dimensions))


@dataclass(frozen=True)
class _ByModel:
    """Opens the model."""

    experiment: Experiment
    checkpoint: str | None

    def __call__(self) -> Callable[[_Piece], None]:
        embed: Callable[[list[str]], np.ndarray]
        if self.experiment.pairing.engine == "vllm":
            from sbp_jax.pairing.vllm import VllmEmbedder

            embed = VllmEmbedder(self.experiment.pairing, self.experiment.engine)
        else:
            from sbp_jax.pairing.hidden import HiddenStates

            embed = HiddenStates(self.experiment.pairing, self.checkpoint)
        return lambda piece: save(piece.vectors, embed(piece.texts()))


def _join(pieces: list[_Piece], whole: Path, centered: bool) -> None:
    """Those of a base model lie in a narrow cone around their mean; without it they differ."""
    arrays = functools.partial(map, lambda piece: np.load(piece.vectors), pieces)
    documents = sum(_table(Path(part)).num_rows for part in {piece.part for piece in pieces})
    width = next(arrays()).shape[1]
    mean = np.zeros(width)
    if centered:
        mean = sum(array.sum(axis=0, dtype=np.float64) for array in arrays()) / documents
    temporary = whole.with_suffix(".tmp")
    joined = np.lib.format.open_memmap(temporary, "w+", np.float32, (documents, width))
    start = 0
    for array in arrays():
        moved = array - mean if centered else array
        if centered:
            norms = np.linalg.norm(moved, axis=1, keepdims=True)
            moved = moved / np.where(norms > 0, norms, 1)
        joined[start : start + len(array)] = moved
        start += len(array)
    joined.flush()
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, whole)


def _texts(part: Path):
    table = _table(part)
    for start in range(0, table.num_rows, BATCH):
        yield table["text"].slice(start, BATCH).to_pylist()


def _table(part: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(part))).read_all()


def _counts(part: Path) -> Path:
    return part.with_suffix(".counts.npy")


def save(path: Path, array: np.ndarray) -> None:
    sink = pa.BufferOutputStream()
    np.save(sink, array)
    files.write_bytes(path, sink.getvalue().to_pybytes())
