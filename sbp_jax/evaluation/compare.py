"""How models differ on the same documents: deltas, their paired intervals, win, loss or tie.

Documents are resampled for all models together. What makes a document hard for everybody cancels,
so a delta's interval is far narrower than the two standard errors side by side suggest.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sbp_jax import files
from sbp_jax.errors import UserError
from sbp_jax.evaluation import contamination
from sbp_jax.evaluation.comparison import Cell, Comparison, Row
from sbp_jax.evaluation.scores import Results, Score

RESAMPLES = 10_000
FEW = 20  # documents; of ten, one interval in ten excludes zero where models do not differ
AVERAGE = "Average QA"
CHUNK = 1 << 20  # numbers in an array at one time

Paper = Mapping[str, Sequence[float | None]]  # benchmark: the baseline's score, then deltas


def compare(results: Sequence[Results], paper: Paper | None = None, seed: int = 0) -> Comparison:
    """The others against the first: the rows of the suite's table, or else all that was measured.

    Documents that a contamination.json in any of the folders names are left out in a row more.
    """
    if len(results) < 2:
        raise UserError("--compare: name two or more folders of evaluations; the first is the base")
    measured: list[_Measured] = []
    averaged: list[_Measured] = []
    averaged_clean: list[_Measured] = []
    clean_documents = [contamination.clean_documents(r) for r in results]
    for entry in _entries(results):
        scores = _paired(results, entry["task"], entry["metric"])
        count = len(next(s for s in scores if s).values)
        kept = np.ones(count, bool)
        for of_model in clean_documents:
            kept &= of_model.get(entry["task"], True)
        row = clean = _measure(entry, scores, seed)
        measured.append(row)
        if not kept.all():
            clean = _measure(entry, [s and s.only(kept) for s in scores], seed, clean=True)
            measured.append(clean)
        if entry["average"]:
            averaged.append(row)
            averaged_clean.append(clean)
    # Of a part of the suite there is none: its name would promise the whole.
    if averaged and any(r.recorded.get("average", True) for r in results):
        measured.append(_average(averaged))
        if any(row.clean for row in averaged_clean):
            measured.append(_average(averaged_clean))
    rows = [m.row((paper or {}).get(m.entry["benchmark"], ())) for m in measured]
    return Comparison(_names(results), rows, _notes(results, rows))


@dataclass(frozen=True)
class _Measured:
    """A row's numbers, an entry a model, NaN where it was not evaluated."""

    entry: dict[str, Any]
    clean: bool
    documents: int
    higher_is_better: bool
    there: np.ndarray  # [models]
    values: np.ndarray
    stderrs: np.ndarray
    resampled: np.ndarray  # deltas against the first, [models, RESAMPLES]
    swapped: np.ndarray

    def row(self, paper: Sequence[float | None]) -> Row:
        names = ("benchmark", "task", "metric", "shots", "percent")
        return Row(
            **{name: self.entry[name] for name in names},
            documents=self.documents,
            cells=[self._cell(k) if there else None for k, there in enumerate(self.there)],
            paper=() if self.clean else paper,
            clean=self.clean,
        )

    def _cell(self, k: int) -> Cell:
        value, stderr = float(self.values[k]), float(self.stderrs[k])
        if k == 0 or not self.there[0]:
            return Cell(value, stderr)
        delta = float(_difference(self.values[k], self.values[0]))
        if not np.isfinite(self.resampled[k]).all():  # a sample that happens to have no weight
            return Cell(value, stderr, delta, mark="undefined")
        low, high = map(float, np.quantile(self.resampled[k], [0.025, 0.975]))
        as_far = np.abs(self.swapped[k]) >= abs(delta) * (1 - 1e-9)
        p = float(1 + as_far.sum()) / (1 + RESAMPLES)
        if low <= 0 <= high:
            mark = "tie"
        elif self.documents < FEW:
            mark = "few"
        else:
            mark = "win" if (low > 0) == self.higher_is_better else "loss"
        return Cell(value, stderr, delta, (low, high), p, mark)


def _entries(results: Sequence[Results]) -> list[dict[str, Any]]:
    """The rows' descriptions: of the first model, then what only others have."""
    tables = [r.recorded.get("table") or [] for r in results]
    if not tables[0]:
        tables = [
            [
                {"benchmark": f"{task} {metric}", "task": task, "metric": metric}
                for task, scores in r.tasks.items()
                for metric in scores.metrics
            ]
            for r in results
        ]
    defaults = {"shots": None, "percent": False, "average": False}
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for r, table in zip(results, tables, strict=True):
        for entry in table:
            scores = r.tasks.get(entry["task"])
            if scores and entry["metric"] in scores.metrics:
                full = defaults | {"shots": scores.shots} | entry
                entries.setdefault((entry["task"], entry["metric"]), full)
    often = Counter(entry["benchmark"] for entry in entries.values())
    return [
        e | ({"benchmark": f"{e['benchmark']} {e['metric']}"} if often[e["benchmark"]] > 1 else {})
        for e in entries.values()
    ]


def _paired(results: Sequence[Results], task: str, metric: str) -> list[Score | None]:
    """The score of each model, of the same documents in the same order."""
    there = [r for r in results if task in r.tasks]
    first = there[0].tasks[task].hashes
    for other in there[1:]:
        hashes = other.tasks[task].hashes
        if hashes != first:
            raise UserError(
                f"{task}: other documents ({len(first)} in {there[0].folder}, {len(hashes)} in "
                f"{other.folder}); evaluate both with the same --limit and --tasks_dir"
            )
    return [r.tasks[task].metrics.get(metric) if task in r.tasks else None for r in results]


def _measure(
    entry: dict[str, Any], scores: Sequence[Score | None], seed: int, clean: bool = False
) -> _Measured:
    name = files.sha256(f"{seed}/{entry['task']}/{entry['metric']}".encode())
    some = next(score for score in scores if score)
    absent = replace(some, values=np.full_like(some.values, math.nan))
    full = [score or absent for score in scores]
    return _Measured(
        entry,
        clean,
        len(some.values),
        some.higher_is_better,
        np.array([score is not None for score in scores]),
        np.array([score.value for score in full]),
        np.array([score.stderr for score in full]),
        *_deltas(full, np.random.default_rng(int(name[:16], 16))),
    )


def _deltas(scores: Sequence[Score], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Deltas over resampled documents, and over the same ones with coins thrown for which of the
    two models gave which answer: what deltas are where models do not differ.
    """
    count = len(scores[0].values)
    resampled, swapped = np.full((2, len(scores), RESAMPLES), math.nan)
    size = max(1, CHUNK // max(1, count))
    for start in range(0, RESAMPLES if count else 0, size):
        rows = min(size, RESAMPLES - start)
        part = slice(start, start + rows)
        drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        counts = counts.astype(np.float64)
        coins = rng.integers(0, 2, (rows, count), np.uint8).astype(np.float64)
        first = scores[0].of(counts)
        for k, score in enumerate(scores[1:], 1):
            both = replace(
                score,
                values=np.concatenate([scores[0].values, score.values]),
                weights=np.concatenate([scores[0].weights, score.weights]),
            )
            resampled[k, part] = _difference(score.of(counts), first)
            swapped[k, part] = _difference(
                both.of(np.hstack([coins, 1 - coins])), both.of(np.hstack([1 - coins, coins]))
            )
    return resampled, swapped


def _difference(a: Any, b: Any) -> Any:
    """What rounding leaves of equal scores is none."""
    with np.errstate(invalid="ignore"):
        delta = a - b
        rounding = np.abs(delta) <= 1e-12 * np.maximum(np.abs(a), np.abs(b))
        return np.where(rounding & np.isfinite(delta), 0.0, delta)


def _average(rows: Sequence[_Measured]) -> _Measured:
    """Of models that have all of it; tasks were resampled one by one."""
    return _Measured(
        {"benchmark": AVERAGE, "task": "", "metric": "", "shots": None}
        | {"percent": rows[0].entry["percent"]},
        any(row.clean for row in rows),
        sum(row.documents for row in rows),
        rows[0].higher_is_better,
        np.all([row.there for row in rows], axis=0),
        np.mean([row.values for row in rows], axis=0),
        np.sqrt(np.sum([row.stderrs**2 for row in rows], axis=0)) / len(rows),
        np.mean([row.resampled for row in rows], axis=0),
        np.mean([row.swapped for row in rows], axis=0),
    )


def _names(results: Sequence[Results]) -> list[str]:
    """Of models, with the folder where two have the same name, or a number where that is not
    enough.
    """
    names = [r.name for r in results]
    names = [
        name if names.count(name) == 1 else f"{name} ({r.folder})"
        for name, r in zip(names, results, strict=True)
    ]
    seen: Counter[str] = Counter()
    for i, name in enumerate(names):
        seen[name] += 1
        names[i] = name if seen[name] == 1 else f"{name} #{seen[name]}"
    return names


def _notes(results: Sequence[Results], rows: Sequence[Row]) -> list[str]:
    notes = [
        f"{results[0].name}: score ± standard error. Others: difference, with the 95% percentile "
        f"interval of {RESAMPLES:,} resamples of the documents, paired. win, loss: the interval "
        "excludes zero; tie: it does not. Nothing is corrected for the number of comparisons."
    ]
    marks = {cell.mark for row in rows for cell in row.cells if cell}
    if "few" in marks:
        notes.append(f"few: fewer than {FEW} documents, too few to name a winner.")
    if "undefined" in marks:
        notes.append("undefined: documents without a finite log-likelihood, or without weight.")
    for task in dict.fromkeys(row.task for row in rows if row.task):
        shots = {r.tasks[task].shots for r in results if task in r.tasks}
        if len(shots) > 1:
            notes.append(f"{task}: evaluated with {' and '.join(map(str, sorted(shots)))} shots.")
    if any(row.clean for row in rows):
        notes.append(f"clean: without documents that share {contamination.N} words with a corpus.")
    return notes
