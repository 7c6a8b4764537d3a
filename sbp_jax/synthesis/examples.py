"""What a synthesizer is tuned on and judged by: pairs as rows of tokens, in three stores.

    train     pairs of two training documents
    held_out  a sample of those whose d2 no training has seen, by which the checkpoint is chosen
    shuffled  the same d2's, each after the d1 of another pair

An example is BOS, the prompt that synthesis gives (with d1 in it), d2, EOS.
"""

import hashlib
import heapq
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from etils import epath

from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.pack import write_pairs
from sbp_jax.data.split import is_validation
from sbp_jax.data.text_files import file_size
from sbp_jax.data.tokenizer import Tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import prompt_ids
from sbp_jax.processes import REPORT_S

STORES = ("train", "held_out", "shuffled")
TRAIN, HELD_OUT = (False, False), (False, True)  # whether d1 and d2 are validation documents
log = logging.getLogger(__name__)


class Pair(NamedTuple):
    d1: str
    d2: str
    id1: str
    id2: str


def write_stores(
    experiment: Experiment, pairs: epath.PathLike, tokenizer: Tokenizer, output: epath.Path
) -> dict[str, str]:
    """The token stores, made unless they are there."""
    e, manifest = experiment, read_pairs_manifest(pairs)
    settings = [e.tuning.truncate, e.synthesis.prompt, e.seed, e.data.held_out]
    settings.append(e.eval.max_sequences)
    fingerprint = files.sha256(json.dumps([manifest["sha256"], settings]).encode())
    made = not all(files.has_manifest(output / name) for name in STORES)
    if made:
        _refuse_too_few(e, pairs)
    for name in STORES:
        write_pairs(
            _examples(e, pairs, tokenizer, name),
            output / name,
            tokenizer=tokenizer,
            row_length=e.data.sequence_length + 1,
            name=f"{pairs} ({name})",
            fingerprint=fingerprint,
        )
    paths = {name: str(output / name) for name in STORES}
    if made and (left := read_count(paths["train"])["left_out"]):
        log.warning(
            "pairs: %s are longer than config.data.sequence_length=%d tokens and left out; "
            "--config.tuning.truncate=True cuts their d1",
            f"{left:,}",
            e.data.sequence_length,
        )
    return paths


def read_count(store: str) -> dict[str, int]:
    manifest = files.read_manifest(store)
    return {name: manifest[name] for name in ("examples", "left_out", "target_tokens", "tokens")}


def read_pairs_manifest(folder: epath.PathLike) -> dict[str, Any]:
    folder = epath.Path(folder)
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; python -m sbp_jax.pair makes one of pairs")
    manifest = files.read_manifest(folder)
    if manifest.get("kind") != "pairs":
        raise UserError(
            f"{folder}: holds {manifest.get('kind') or 'something else'}, not pairs; name the "
            "output of python -m sbp_jax.pair"
        )
    for shard in manifest["shards"]:
        path = folder / shard["name"]
        if not path.exists() or file_size(path) != shard["bytes"]:
            raise UserError(f"{path}: not the file that the manifest lists; make the pairs again")
    return manifest


def read_pairs(folder: epath.PathLike, columns: Sequence[str] = Pair._fields) -> Iterator[Any]:
    """All pairs in order; with fewer columns, rows of these."""
    for shard in read_pairs_manifest(folder)["shards"]:
        with (epath.Path(folder) / shard["name"]).open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=1000, columns=[*columns]):
                rows = zip(*(batch[name].to_pylist() for name in columns), strict=True)
                yield from map(Pair._make, rows) if columns is Pair._fields else rows


def _refuse_too_few(e: Experiment, pairs: epath.PathLike) -> None:
    """Before a store is begun, whose plan another config would meet."""
    count: Counter[tuple[bool, bool]] = Counter()
    d1s: set[str] = set()
    for id1, id2 in read_pairs(pairs, ("id1", "id2")):
        kind = is_validation(id1, e), is_validation(id2, e)
        count[kind] += 1
        if kind == HELD_OUT and len(d1s) < 2:
            d1s.add(id1)
    share = f"config.data.held_out={e.data.held_out:g}"
    if not count[TRAIN]:
        raise UserError(f"{pairs}: no pair of two training documents; lower {share}, or pair more")
    if len(d1s) < 2:
        raise UserError(
            f"{pairs}: {count[HELD_OUT]} held-out pairs, of {len(d1s)} d1, to choose the "
            f"checkpoint by: it takes two with another d1. A pair is held out when {share} makes "
            "its d2 a validation document and its d1 none; raise it, or pair more documents"
        )
    log.info(
        "pairs: %s to train on, %s with an unseen d2",
        f"{count[TRAIN]:,}",
        f"{count[HELD_OUT]:,}",
    )


def _examples(
    e: Experiment, pairs: epath.PathLike, tokenizer: Tokenizer, name: str
) -> Iterator[tuple[list[int], list[int]]]:
    if name == "train":
        for pair in _reported(_of_kind(e, pairs, TRAIN)):
            yield _example(e, pair, tokenizer, e.tuning.truncate)
        return
    sample = _sample(e, pairs, tokenizer)
    shuffled = name == "shuffled"
    for pair in _with_other_d1s(sample, e.seed) if shuffled else sample:
        # Another d1 may be longer; without its d2 the two losses would not be of the same ones.
        yield _example(e, pair, tokenizer, e.tuning.truncate or shuffled)


def _example(
    e: Experiment, pair: Pair, tokenizer: Tokenizer, truncate: bool
) -> tuple[list[int], list[int]]:
    target = [*tokenizer.encode([pair.d2])[0], tokenizer.eos_id]
    room, d1 = e.data.sequence_length + 1 - len(target), pair.d1
    while True:
        context = prompt_ids(tokenizer, e.synthesis.prompt.replace("{text}", d1))
        over = len(context) - room
        if not truncate or over <= 0 or not d1:
            return context, target
        # As synthesis would ask for the end of d1, so that BOS and the prompt stay whole.
        end = tokenizer.decode(tokenizer.encode([d1])[0][over:]).lstrip("\ufffd")
        d1 = end if len(end) < len(d1) else d1[1:]


def _of_kind(e: Experiment, pairs: epath.PathLike, kind: tuple[bool, bool]) -> Iterator[Pair]:
    for pair in read_pairs(pairs):
        if (is_validation(pair.id1, e), is_validation(pair.id2, e)) == kind:
            yield pair


def _sample(e: Experiment, pairs: epath.PathLike, tokenizer: Tokenizer) -> list[Pair]:
    """Of those held out that fit, as many as evaluation certainly counts, drawn by their ids: the
    best come first in the files.
    """

    def fits(pair: Pair) -> bool:
        context, target = _example(e, pair, tokenizer, e.tuning.truncate)
        return len(context) + len(target) <= e.data.sequence_length + 1

    def draw(pair: Pair) -> bytes:
        name = json.dumps([e.seed, pair.id1, pair.id2])
        return hashlib.blake2b(name.encode(), digest_size=8).digest()

    held_out = filter(fits, _of_kind(e, pairs, HELD_OUT))
    return heapq.nsmallest(e.eval.max_sequences, held_out, key=draw)


def _with_other_d1s(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Each d2 after the d1 of another document."""
    if len({pair.id1 for pair in pairs}) < 2:
        raise UserError(
            f"of the held-out pairs {len(pairs)} fit into config.data.sequence_length, of one d1 "
            "at most: it takes two to compare; raise it, or give --config.tuning.truncate=True"
        )
    order = list(range(len(pairs)))
    random.Random(f"{seed} shuffled pairs").shuffle(order)
    after = {order[i]: order[(i + 1) % len(order)] for i in range(len(order))}
    shuffled = []
    for number, pair in enumerate(pairs):
        other = after[number]
        while pairs[other].id1 == pair.id1:
            other = after[other]
        shuffled.append(pair._replace(d1=pairs[other].d1))
    return shuffled


def _reported(pairs: Iterable[Pair]) -> Iterator[Pair]:
    last = time.monotonic()
    for number, pair in enumerate(pairs):
        if time.monotonic() - last > REPORT_S:
            last = time.monotonic()
            log.info("pairs: %s packed", f"{number:,}")
        yield pair
