"""From a corpus to a shuffled TokenStore, in parallel, in bounded memory, resumable at any point.

The order of documents is that of a 64-bit hash of (seed, corpus shard, row), known before anything
is tokenized. So it is an external sort: each corpus shard becomes *runs* sorted by that hash, and
each file of the tape, holding a range of the order, takes one contiguous slice of every run. Both
kinds of task are pure functions that write one thing under its final name: whatever the workers,
kills and restarts, the bytes are the same.
"""

import dataclasses
import functools
import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath

from sbp_jax import files, processes
from sbp_jax.data.corpus import Corpus, Document, Shard
from sbp_jax.data.tokenizer import Tokenizer, load_tokenizer
from sbp_jax.data.tokens import (
    SHARD_TOKENS,
    Array,
    TokenStore,
    finish,
    refuse_other_inputs,
    token_dtype,
    unfinished_folder,
)
from sbp_jax.errors import UserError

BATCH_CHARACTERS = 1 << 20  # text given to the tokenizer at once
log = logging.getLogger(__name__)


def write_tokens(
    corpus: Corpus,
    tokenizer_path: str,
    output: epath.PathLike,
    *,
    seed: int,
    held_out: float,
    workers: int,
    on_error: str,
    shard_tokens: int = SHARD_TOKENS,
) -> dict[str, Any]:
    """Writes the store unless it is there; returns its manifest.

    The last `held_out` of the shuffled documents are the held-out part. The main process holds
    some 50 bytes a document, a worker a few times `shard_tokens`.
    """
    output = epath.Path(output)
    tokenizer = load_tokenizer(tokenizer_path)
    inputs = {
        "corpus": corpus.name,
        "corpus_fingerprint": corpus.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "seed": seed,
        "held_out": held_out,
    }
    if files.has_manifest(output):
        manifest = TokenStore(output).manifest
        refuse_other_inputs(output, manifest, inputs)
        if (pieces := output / "pieces").exists():  # a kill came between the manifest and this
            pieces.rmtree()
        return manifest
    pieces = unfinished_folder(output, inputs | {"shard_tokens": shard_tokens})
    log.info("tokenizing %s", corpus.name)

    dtype = token_dtype(tokenizer.vocab_size)
    shared = _Shared(
        str(pieces), tokenizer_path, tokenizer.fingerprint, dtype, seed, on_error, shard_tokens
    )
    tasks = [_Piece(shared, i, shard) for i, shard in enumerate(corpus.shards)]
    missing = [task for task in tasks if not task.done.exists()]
    processes.run(_tokenize, missing, len(missing), workers, "tokenize: corpus shards")

    done = [json.loads(task.done.read_text()) for task in tasks]
    runs = [
        path for task, record in zip(tasks, done, strict=True) for path in task.runs(record["runs"])
    ]
    order = _Order.of(runs)
    documents = len(order.order)
    if not documents:
        raise UserError(f"{corpus.name}: no documents in it")
    held = max(1, round(held_out * documents)) if held_out else 0
    if documents - held < 1:
        raise UserError(
            f"{corpus.name}: {documents} documents, of which {held} are to be held out: none is "
            "left to train on; add documents, or name others in eval.input"
        )
    tokens = int(order.offsets[-1])
    tape = Array(output, "tokens", dtype, tokens, shard_tokens, create=True)
    records = [_record(pieces, i) for i in range(tape.num_shards)]
    unwritten = [i for i, record in enumerate(records) if not record.exists()]
    ranges = (order.range(shared, str(output), tokens, i) for i in unwritten)
    processes.run(_write_range, ranges, len(unwritten), workers, "tokenize: files of the tape")

    shards = [json.loads(record.read_text()) for record in records]
    offsets = Array(output, "offsets", "int64", documents + 1, shard_tokens, create=True)
    for i in range(offsets.num_shards):
        shards.append(
            offsets.write_shard(i, order.offsets[i * shard_tokens : (i + 1) * shard_tokens])
        )
    manifest = {
        "documents": documents,
        "tokens": tokens,
        "dtype": dtype,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        **inputs,
        "held_out_documents": held,
        "held_out_tokens": tokens - int(order.offsets[documents - held]),
        "skipped": sum(record["skipped"] for record in done),
        "shard_tokens": shard_tokens,
    }
    manifest = finish(output, manifest, shards)
    pieces.rmtree()
    return manifest


@dataclasses.dataclass(frozen=True)
class _Shared:
    """What every task needs to know."""

    pieces: str
    tokenizer_path: str
    tokenizer: str
    dtype: str
    seed: int
    on_error: str
    shard_tokens: int


@dataclasses.dataclass(frozen=True)
class _Piece:
    """One corpus shard to be tokenized into sorted runs."""

    shared: _Shared
    index: int
    shard: Shard

    @property
    def done(self) -> epath.Path:
        return epath.Path(self.shared.pieces) / f"{self.index:06d}.json"

    def runs(self, number: int) -> list[str]:
        return [f"{self.shared.pieces}/{self.index:06d}-{i:04d}" for i in range(number)]


def _tokenize(piece: _Piece) -> None:
    shared, runs, skipped, documents = piece.shared, 0, 0, 0
    tokenizer = _tokenizer(shared.tokenizer_path, shared.tokenizer)
    sequences: list[np.ndarray] = []
    size = 0

    def on_bad_row(error: UserError) -> None:
        nonlocal skipped
        if shared.on_error != "skip":
            raise error
        skipped += 1

    def flush() -> None:
        nonlocal sequences, size, runs
        if not sequences:
            return
        keys = _keys(shared.seed, piece.shard.name, documents - len(sequences), documents)
        order = np.argsort(keys, kind="stable")
        path = piece.runs(runs + 1)[-1]
        files.write_bytes(path + ".tokens", np.concatenate([sequences[i] for i in order]).tobytes())
        lengths = np.array([len(s) for s in sequences], np.uint64)
        files.write_bytes(path + ".index", np.stack([keys[order], lengths[order]]).tobytes())
        sequences, size, runs = [], 0, runs + 1

    for batch in _batches(piece.shard.read(on_bad_row)):
        for document, ids in zip(batch, tokenizer.encode([d.text for d in batch]), strict=True):
            sequence = np.array(
                [*([] if tokenizer.bos_id is None else [tokenizer.bos_id]), *ids, tokenizer.eos_id],
                np.int64,
            )
            if sequence.min() < 0 or sequence.max() >= tokenizer.vocab_size:
                raise UserError(
                    f"{shared.tokenizer_path}: gave document {document.id!r} a token id outside "
                    f"its vocabulary of {tokenizer.vocab_size}; the tokenizer is broken"
                )
            documents += 1
            sequences.append(sequence.astype(shared.dtype))
            size += len(sequence)
        if size >= shared.shard_tokens:
            flush()
            log.info("tokenize: %s: %s documents so far", piece.shard.name, f"{documents:,}")
    flush()
    files.write_json(piece.done, {"runs": runs, "documents": documents, "skipped": skipped})


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _keys(seed: int, shard: str, start: int, stop: int) -> np.ndarray:
    """The hash by which documents are ordered: splitmix64, each shard a stream of its own."""
    stream = np.uint64(int(files.sha256(f"{seed}/{shard}".encode())[:16], 16))
    x = stream + np.arange(start, stop, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@functools.lru_cache(maxsize=1)
def _tokenizer(path: str, fingerprint: str) -> Tokenizer:
    tokenizer = load_tokenizer(path)
    if tokenizer.fingerprint != fingerprint:
        raise UserError(f"{path}: the tokenizer changed while it was in use; start again")
    return tokenizer


@dataclasses.dataclass(frozen=True)
class _Range:
    """One file of the tape: where its documents lie in the runs, and in which order they follow."""

    shared: _Shared
    output: str
    tokens: int  # of the whole tape
    index: int
    slices: list[tuple[str, int, int]]  # run, first token, number of tokens
    lengths: np.ndarray  # of the documents, as they lie in the slices
    order: np.ndarray  # positions among them
    skip: int  # tokens of the first document that belong to the file before


@dataclasses.dataclass(frozen=True)
class _Order:
    """Documents: `starts`, `lengths` as they lie in the runs; `order`, `offsets` on the tape."""

    runs: list[str]
    first: np.ndarray  # document of each run
    starts: np.ndarray
    lengths: np.ndarray
    order: np.ndarray
    offsets: np.ndarray

    @staticmethod
    def of(runs: list[str]) -> "_Order":
        index = [
            np.frombuffer(epath.Path(run + ".index").read_bytes(), np.uint64).reshape(2, -1)
            for run in runs
        ]
        keys, lengths = np.concatenate([np.zeros((2, 0), np.uint64), *index], axis=1)
        first = np.cumsum([0] + [i.shape[1] for i in index])
        order = np.argsort(keys, kind="stable")
        return _Order(
            runs, first, _cumulative(lengths), lengths, order, _cumulative(lengths[order])
        )

    def range(self, shared: _Shared, output: str, tokens: int, index: int) -> _Range:
        start = index * shared.shard_tokens
        first = int(np.searchsorted(self.offsets, start, "right")) - 1
        last = int(np.searchsorted(self.offsets, start + shared.shard_tokens, "left"))
        documents = self.order[first:last]
        # Contiguous within each run, because runs are sorted by the same key.
        lying = np.sort(documents)
        runs, where = np.unique(np.searchsorted(self.first, lying, "right") - 1, return_index=True)
        slices = []
        for run, i, j in zip(runs, where, [*where[1:], len(lying)], strict=True):
            begin, end = self.starts[lying[i]], self.starts[lying[j - 1] + 1]
            slices.append(
                (self.runs[run], int(begin - self.starts[self.first[run]]), int(end - begin))
            )
        lengths, order = self.lengths[lying], np.searchsorted(lying, documents)
        return _Range(
            shared, output, tokens, index, slices, lengths, order, start - int(self.offsets[first])
        )


def _write_range(task: _Range) -> None:
    shared, dtype = task.shared, np.dtype(task.shared.dtype)
    parts = []
    for run, first, number in task.slices:
        with epath.Path(run + ".tokens").open("rb") as f:
            f.seek(first * dtype.itemsize)
            parts.append(np.frombuffer(f.read(number * dtype.itemsize), dtype))  # type: ignore[arg-type]
    lying, starts = np.concatenate(parts), _cumulative(task.lengths)
    shuffled = np.concatenate([lying[starts[i] : starts[i + 1]] for i in task.order])
    array = Array(task.output, "tokens", shared.dtype, task.tokens, shared.shard_tokens)
    record = array.write_shard(task.index, shuffled[task.skip : task.skip + shared.shard_tokens])
    files.write_json(_record(epath.Path(shared.pieces), task.index), record)


def _record(pieces: epath.Path, index: int) -> epath.Path:
    """Where a finished file of the tape leaves its hashes until the manifest takes them."""
    return pieces / f"tape-{index:06d}.json"


def _cumulative(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
