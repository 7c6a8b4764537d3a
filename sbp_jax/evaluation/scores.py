"""What a model got: one number for every document, from which every score follows.

    W/results.json              the scores, and the table of the suite; written last
    W/samples/TASK.parquet      a row a document: doc_id, hash, text, and two columns a metric

A score is f(sum of values / sum of weights), f the identity or exp. Accuracy is that, and so are
perplexity for a word, bits for a byte and whatever else lm-eval averages. Keeping the parts makes
paired comparisons, and scores without contaminated documents, arithmetic on a table.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sbp_jax import files
from sbp_jax.errors import UserError


@dataclass(frozen=True)
class Score:
    values: np.ndarray  # [documents]
    weights: np.ndarray
    perplexity: bool = False  # exp of the mean, which is one of negative log-likelihoods
    higher_is_better: bool = True

    @property
    def value(self) -> float:
        return self.of(np.ones(len(self.values)))

    @property
    def stderr(self) -> float:
        """Of a mean, the sample's; of a ratio or its exp, to first order."""
        count = len(self.values)
        if count < 2:
            return math.nan
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            mean = self.values.sum() / self.weights.sum()
            off = (self.values - mean * self.weights) / self.weights.mean()
            error = off.std(ddof=1) / math.sqrt(count)
            return float(error * np.exp(mean) if self.perplexity else error)

    def of(self, counts: np.ndarray) -> Any:
        """The score where each document counts as often; [..., documents] gives [...]."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            # Not `@`: on a busy machine its threads wait for each other five times as long.
            total, weight = (np.einsum("...d,d", counts, x) for x in (self.values, self.weights))
            mean = total / weight
            return np.exp(mean) if self.perplexity else mean

    def recorded(self) -> dict[str, float | None]:
        """As JSON has it, which knows no infinity."""
        numbers = {"value": float(self.value), "stderr": float(self.stderr)}
        return {name: x if math.isfinite(x) else None for name, x in numbers.items()}

    def only(self, kept: np.ndarray) -> "Score":
        return dataclasses.replace(self, values=self.values[kept], weights=self.weights[kept])


@dataclass(frozen=True)
class TaskScores:
    """A task's documents, in the order of the task, and what the model got on each."""

    hashes: list[str]  # of a document as lm-eval hashes it: pairs documents of two models
    texts: list[str]  # what a corpus would hold if it was contaminated
    metrics: dict[str, Score]
    shots: int = 0

    def write(self, folder: Path, task: str) -> dict[str, Any]:
        """Its part of results.json; the file is there when this returns."""
        columns: dict[str, Any] = {
            "doc_id": pa.array(range(len(self.hashes)), pa.int64()),
            "hash": self.hashes,
            "text": self.texts,
        }
        for name, score in self.metrics.items():
            columns |= {name: score.values, f"{name}.weight": score.weights}
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        path = f"samples/{task}.parquet"
        files.write_bytes(folder / path, data)
        return {
            "shots": self.shots,
            "documents": len(self.hashes),
            "metrics": {
                name: {
                    **score.recorded(),
                    "perplexity": score.perplexity,
                    "higher_is_better": score.higher_is_better,
                }
                for name, score in self.metrics.items()
            },
            "samples": path,
            "sha256": files.sha256(data),
        }


@dataclass(frozen=True)
class Results:
    """A finished evaluation's folder."""

    folder: Path
    recorded: dict[str, Any]  # results.json

    @classmethod
    def read(cls, path: str | Path) -> "Results":
        folder = Path(path)
        if folder.name == "results.json":
            folder = folder.parent
        try:
            recorded = json.loads((folder / "results.json").read_text())
            assert recorded["tasks"] is not None
        except FileNotFoundError as error:
            raise UserError(
                f"{folder}: no results.json: no evaluation ended here; run "
                f"python -m sbp_jax.evaluate --checkpoint=... --workdir={folder}"
            ) from error
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise UserError(f"{folder}/results.json: not the results of an evaluation") from error
        return cls(folder, recorded)

    @property
    def name(self) -> str:
        return self.recorded.get("name") or self.folder.name

    @cached_property
    def tasks(self) -> dict[str, TaskScores]:
        return {
            task: read_task(self.folder, task, entry)
            for task, entry in self.recorded["tasks"].items()
        }


def read_task(folder: Path, task: str, entry: dict[str, Any]) -> TaskScores:
    path = folder / entry["samples"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}; evaluate again") from error
    if files.sha256(data) != entry["sha256"]:
        raise UserError(f"{path}: not what results.json was made of; evaluate again")
    table = pq.read_table(pa.BufferReader(data))
    metrics = {
        name: Score(
            table[name].to_numpy(),
            table[f"{name}.weight"].to_numpy(),
            metric["perplexity"],
            metric["higher_is_better"],
        )
        for name, metric in entry["metrics"].items()
    }
    return TaskScores(table["hash"].to_pylist(), table["text"].to_pylist(), metrics, entry["shots"])
