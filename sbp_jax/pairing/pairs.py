"""From neighbours to pairs: the filters, each with its count, and the files.

Pairs lie in the order of their scores, the best first; what ties, in that of the corpus. So the
order depends on nothing that computed it, and the first n rows are what a higher threshold, or
`pairs=n`, would have left. The control with random pairs has the same d1 in every row.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sbp_jax import files, processes
from sbp_jax.config import Experiment, PairingConfig
from sbp_jax.data.corpus import ROW_GROUP
from sbp_jax.data.tokens import refuse_other_inputs
from sbp_jax.errors import UserError
from sbp_jax.pairing import exact
from sbp_jax.pairing.embed import Documents
from sbp_jax.pairing.overlap import overlaps

KIND = "pairs"
ROWS = 100_000  # of a file
DRAWS = 100  # of a random d2, until none is looked for any longer
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("d1", "d2")]
    + [("score", pa.float32())]
    + [(name, pa.string()) for name in ("id1", "id2")]
)


class Pairs(NamedTuple):
    d1: np.ndarray  # numbers of documents
    d2: np.ndarray
    score: np.ndarray

    def where(self, kept: np.ndarray) -> "Pairs":
        return Pairs(*(column[kept] for column in self))


Overlaps = Callable[[np.ndarray, np.ndarray], np.ndarray]


def write_pairs(neighbors: Path, experiment: Experiment, output: Path) -> dict[str, Any]:
    """Makes the folder of pairs unless it is there; returns its manifest."""
    pairing, workers, work = experiment.pairing, experiment.data.workers, output / "work"
    found = files.read_manifest(neighbors)
    settings = {f"config.pairing.{k}": v for k, v in dataclasses.asdict(pairing).items()}
    inputs = {"kind": KIND, "corpus": found["corpus"]}
    inputs |= {k: found[k] for k in ("corpus_fingerprint", "model") if k in found} | settings
    if pairing.random_pairs:
        inputs["config.seed"] = experiment.seed
    if files.has_manifest(output):
        manifest = files.read_manifest(output)
        refuse_other_inputs(output, manifest, inputs)
        shutil.rmtree(work, ignore_errors=True)  # of a kill between the manifest and this
        return manifest
    if any(output.glob("*.parquet")) and not work.exists():
        raise UserError(f"{output}: holds Parquet files of something else; name another folder")
    with files.exclusive(output / ".lock", f"{output}: another process writes pairs there"):
        documents = Documents(neighbors)
        measure = overlaps(neighbors, work, pairing.shingle, workers)
        ids, scores = np.load(neighbors / "ids.npy"), np.load(neighbors / "scores.npy")
        pairs, counts = select(candidates(ids, scores, pairing.orders), documents, pairing, measure)
        if not len(pairs.d1):
            left = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise UserError(f"{found['corpus']}: no pair is left ({left}); loosen config.pairing")
        if pairing.random_pairs:
            pairs = randomized(pairs, documents, pairing, measure, experiment.seed)
        plan = work / "plan.json"
        if plan.exists():
            refuse_other_inputs(output, json.loads(plan.read_text()), inputs)
        files.write_json(plan, inputs)
        tasks = [
            _Part(str(neighbors), str(output), at // ROWS, pairs.where(slice(at, at + ROWS)))  # type: ignore[arg-type]
            for at in range(0, len(pairs.d1), ROWS)
        ]
        missing = [task for task in tasks if not task.record.exists()]
        processes.run(_write, missing, len(missing), workers, "pair: files of pairs")
        shards = [json.loads(task.record.read_text()) for task in tasks]
        manifest = {
            **inputs,
            "counts": counts,
            "d1_documents": len(np.unique(pairs.d1)),
            "documents": len(documents),
            "scores": dict(zip(("min", "median", "max"), _quantiles(pairs.score), strict=True)),
            "shards": shards,
            "sha256": files.sha256("".join(shard["sha256"] for shard in shards).encode()),
        }
        files.write_manifest(output, manifest)
        shutil.rmtree(work)
    return manifest


def candidates(ids: np.ndarray, scores: np.ndarray, orders: str) -> Pairs:
    """Ordered pairs of each document and its neighbours."""
    n, k = ids.shape
    pairs = Pairs(np.repeat(np.arange(n), k), ids.ravel().astype(np.int64), scores.ravel())
    if orders == "neighbors":
        return pairs
    low, high = np.minimum(pairs.d1, pairs.d2), np.maximum(pairs.d1, pairs.d2)
    _, once = np.unique(low * n + high, return_index=True)
    one = Pairs(low[once], high[once], pairs.score[once])
    if orders == "one":
        return one
    return Pairs(
        np.concatenate([one.d1, one.d2]),
        np.concatenate([one.d2, one.d1]),
        np.concatenate([one.score, one.score]),
    )


def select(
    pairs: Pairs, documents: Documents, pairing: PairingConfig, measure: Overlaps
) -> tuple[Pairs, dict[str, int]]:
    """What passes the filters, in order, and how many each of them took, one after the other."""
    counts = {"candidates": len(pairs.d1)}

    def keep(name: str, kept: np.ndarray) -> None:
        nonlocal pairs
        counts[name] = int(len(kept) - kept.sum())
        pairs = pairs.where(kept)

    for name, passes in _of_documents(documents, pairing):
        keep(name, passes(pairs.d1, pairs.d2))
    keep("below_min_score", pairs.score >= pairing.min_score)
    keep("above_max_score", pairs.score <= pairing.max_score)
    pairs = pairs.where(np.lexsort((pairs.d2, pairs.d1, -pairs.score)))
    keep("overlap", measure(pairs.d1, pairs.d2) <= pairing.max_overlap)
    of_d1 = np.argsort(pairs.d1, kind="stable")
    rank = np.empty(len(of_d1), np.int64)
    rank[of_d1] = exact.ranks(pairs.d1[of_d1])
    keep("max_per_document", rank < (pairing.max_per_document or len(rank) + 1))
    keep("beyond_the_best", np.arange(len(rank := pairs.d1)) < (pairing.pairs or len(rank) + 1))
    return pairs, counts | {"pairs": len(pairs.d1)}


def _of_documents(
    documents: Documents, pairing: PairingConfig
) -> list[tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]]:
    """The filters that ask neither for a score nor for the texts."""
    fits = documents.characters >= pairing.min_characters
    if pairing.max_characters:
        fits &= documents.characters <= pairing.max_characters
    words, sources = documents.words, documents.sources
    return [
        ("repeats", lambda d1, d2: words[d1] != words[d2]),
        ("length", lambda d1, d2: fits[d1] & fits[d2]),
        ("same_source", lambda d1, d2: (sources[d1] != sources[d2]) | pairing.same_source),
    ]


def randomized(
    pairs: Pairs, documents: Documents, pairing: PairingConfig, measure: Overlaps, seed: int
) -> Pairs:
    """The same d1 in every row, and any other document as d2 that all filters pass but those of
    scores; no pair twice.
    """
    n, d2 = len(documents), np.full(len(pairs.d1), -1)
    filters = [passes for _, passes in _of_documents(documents, pairing)]
    for draw in range(DRAWS):
        (rows,) = np.nonzero(d2 < 0)
        if not len(rows):
            return Pairs(pairs.d1, d2, exact.scores(documents.vectors, pairs.d1, d2))
        drawn = _hash(seed, draw, rows) % np.uint64(n)
        d1, drawn = pairs.d1[rows], drawn.astype(np.int64)
        good = d1 != drawn
        for passes in filters:
            good &= passes(d1, drawn)
        taken = pairs.d1[d2 >= 0] * n + d2[d2 >= 0]
        good &= ~np.isin(d1 * n + drawn, taken)
        (good,) = np.nonzero(good)
        good = good[np.sort(np.unique((d1 * n + drawn)[good], return_index=True)[1])]
        good = good[measure(d1[good], drawn[good]) <= pairing.max_overlap]
        d2[rows[good]] = drawn[good]
    (row,) = np.nonzero(d2 < 0)[0][:1]
    name = documents.column("id", pairs.d1[[row]])[0]
    raise UserError(
        f"config.pairing.random_pairs: {DRAWS} draws found no d2 for document {name!r} that passes "
        "the filters; loosen them, or take fewer neighbors"
    )


def _hash(seed: int, draw: int, rows: np.ndarray) -> np.ndarray:
    stream = int(files.sha256(f"{seed} random pairs {draw}".encode())[:16], 16)
    x = np.uint64(stream) + rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _quantiles(scores: np.ndarray) -> list[float]:
    return [float(q) for q in np.quantile(scores, [0, 0.5, 1], method="lower")]


@dataclasses.dataclass(frozen=True)
class _Part:
    """A file of pairs to be written."""

    neighbors: str
    output: str
    index: int
    pairs: Pairs

    @property
    def record(self) -> Path:
        return Path(self.output) / "work" / f"part-{self.index:05d}.json"


def _write(part: _Part) -> None:
    documents, sink = Documents(Path(part.neighbors)), pa.BufferOutputStream()
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer:
        for at in range(0, len(part.pairs.d1), ROW_GROUP):
            d1, d2, score = part.pairs.where(slice(at, at + ROW_GROUP))  # type: ignore[arg-type]
            texts = [documents.column("text", d) for d in (d1, d2)]
            ids = [documents.column("id", d) for d in (d1, d2)]
            columns = [*texts, score, *ids]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
    name, data = f"part-{part.index:05d}.parquet", sink.getvalue().to_pybytes()
    files.write_bytes(Path(part.output) / name, data)
    record = {"name": name, "rows": len(part.pairs.d1), "bytes": len(data)}
    files.write_json(part.record, record | {"sha256": files.sha256(data)})
