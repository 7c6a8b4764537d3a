"""Pair examples (context, target) packed into rows of one length, as a TokenStore with marks.

Packed once, at preparation, so that rows are random access like windows of a plain tape and the
loader needs no packing state. The loss counts target tokens only.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from etils import epath

from sbp_jax import files
from sbp_jax.data.tokenizer import Tokenizer
from sbp_jax.data.tokens import (
    FIRST,
    SHARD_TOKENS,
    TARGET,
    Array,
    TokenStore,
    finish,
    refuse_other_inputs,
    sole_writer,
    token_dtype,
    unfinished_folder,
)
from sbp_jax.errors import UserError

OPEN_ROWS = 64  # rows that may still take an example; more packs little better


def write_pairs(
    examples: Iterable[tuple[Sequence[int], Sequence[int]]],
    output: epath.PathLike,
    *,
    tokenizer: Tokenizer,
    row_length: int,
    name: str,
    fingerprint: str,
    shard_tokens: int = SHARD_TOKENS,
) -> dict[str, Any]:
    """Writes the store unless it is there; returns its manifest.

    Ids are taken as they are: whoever makes the examples puts bos, separators and eos in them. A
    row of `row_length` = sequence length + 1 ids is filled up with eos. An example that is longer
    is left out and counted. `fingerprint` says which examples these are.
    """
    output = epath.Path(output)
    inputs = {
        "corpus": name,
        "corpus_fingerprint": fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "row_length": row_length,
    }
    if files.has_manifest(output):
        manifest = TokenStore(output).manifest
        refuse_other_inputs(output, manifest, inputs)
        return manifest
    with sole_writer(output):
        return _write(examples, output, tokenizer, inputs, shard_tokens)


def _write(
    examples: Iterable[tuple[Sequence[int], Sequence[int]]],
    output: epath.Path,
    tokenizer: Tokenizer,
    inputs: dict[str, Any],
    shard_tokens: int,
) -> dict[str, Any]:
    name, row_length = inputs["corpus"], inputs["row_length"]
    dtype = token_dtype(tokenizer.vocab_size)
    # The shape of the arrays is known at the end.
    pieces = unfinished_folder(output, inputs | {"shard_tokens": shard_tokens})
    counts = _Counts()
    with (pieces / "tokens").open("wb") as tokens, (pieces / "marks").open("wb") as marks:
        for row in _pack(examples, row_length, tokenizer.vocab_size, counts):
            fill = row_length - len(row.ids)
            ids = row.ids + [tokenizer.eos_id] * fill
            tokens.write(np.array(ids, dtype).tobytes())  # type: ignore[arg-type]
            marks.write(bytes(row.marks) + bytes([FIRST] + [0] * (fill - 1) if fill else []))  # type: ignore
            counts.rows += 1
    if not counts.rows:
        raise UserError(
            f"{name}: no example of at most {row_length} tokens; raise data.sequence_length"
        )

    length, shards = counts.rows * row_length, []
    for array_name, array_dtype in (("tokens", dtype), ("marks", "uint8")):
        array = Array(output, array_name, array_dtype, length, shard_tokens, create=True)
        with (pieces / array_name).open("rb") as f:
            shards += [array.write_shard(i, _next(f, array)) for i in range(array.num_shards)]
    offsets = Array(output, "offsets", "int64", counts.rows + 1, shard_tokens, create=True)
    rows = np.arange(counts.rows + 1, dtype=np.int64) * row_length
    shards += [
        offsets.write_shard(i, rows[i * shard_tokens : (i + 1) * shard_tokens])
        for i in range(offsets.num_shards)
    ]
    manifest = {
        "documents": counts.rows,
        "tokens": length,
        "dtype": dtype,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        **inputs,
        "held_out_documents": 0,
        "held_out_tokens": 0,
        "examples": counts.examples,
        "left_out": counts.left_out,
        "target_tokens": counts.targets,
        "shard_tokens": shard_tokens,
    }
    manifest = finish(output, manifest, shards)
    pieces.rmtree()
    return manifest


@dataclasses.dataclass
class _Counts:
    rows: int = 0
    examples: int = 0
    left_out: int = 0
    targets: int = 0


@dataclasses.dataclass
class _Row:
    ids: list[int]
    marks: list[int]


def _pack(
    examples: Iterable[tuple[Sequence[int], Sequence[int]]],
    row_length: int,
    vocab_size: int,
    counts: _Counts,
) -> Iterator[_Row]:
    """First fit: an example goes into the oldest open row that has room for it."""
    rows: list[_Row] = []
    for number, (context, target) in enumerate(examples):
        ids = [*context, *target]
        if ids and (min(ids) < 0 or max(ids) >= vocab_size):
            raise UserError(
                f"example {number}: a token id is outside the vocabulary of {vocab_size}"
            )
        if not 1 < len(ids) <= row_length:
            counts.left_out += 1
            continue
        marks = [0] * len(context) + [TARGET] * len(target)
        marks[0] = FIRST  # nothing precedes it from which to predict it
        counts.examples += 1
        counts.targets += sum(mark == TARGET for mark in marks)
        row = next((row for row in rows if len(row.ids) + len(ids) <= row_length), None)
        if row is None:
            if len(rows) == OPEN_ROWS:
                fullest = max(rows, key=lambda row: len(row.ids))
                rows.remove(fullest)
                yield fullest
            row = _Row([], [])
            rows.append(row)
        row.ids += ids
        row.marks += marks
    yield from rows


def _next(f: BinaryIO, array: Array) -> np.ndarray:
    return np.frombuffer(f.read(array.shard * array.dtype.itemsize), array.dtype)
