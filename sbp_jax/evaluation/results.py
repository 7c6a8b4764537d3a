"""results.json: what was measured on what, and the table of it."""

import math
from typing import Any

from sbp_jax.evaluation.compare import AVERAGE
from sbp_jax.evaluation.markdown import table
from sbp_jax.evaluation.suite import BY_TASK, SBP

SHARES = ("acc", "exact_match", "em", "f1")  # shown in percent


def assemble(told: dict[str, Any], entries: dict[str, Any]) -> dict[str, Any]:
    table = [row for task, entry in entries.items() for row in _rows(task, entry)]
    averaged = [row for row in table if row["average"]]
    complete = len(averaged) == sum(benchmark.average for benchmark in SBP)
    average = _average(averaged) if complete else None
    return {**told, "tasks": entries, "table": table, "average": average}


def _rows(task: str, entry: dict[str, Any]) -> list[dict[str, Any]]:
    benchmark = BY_TASK.get(task)
    metrics = [benchmark.metric] if benchmark and benchmark.metric in entry["metrics"] else None
    return [
        {
            "benchmark": benchmark.name if benchmark and metrics else task,
            "task": task,
            "metric": metric,
            "shots": entry["shots"],
            "documents": entry["documents"],
            "percent": metric.split(",")[0].startswith(SHARES),
            "average": bool(benchmark and metrics and benchmark.average),
            "value": entry["metrics"][metric]["value"],
            "stderr": entry["metrics"][metric]["stderr"],
        }
        for metric in metrics or entry["metrics"]
    ]


def _average(rows: list[dict[str, Any]]) -> dict[str, Any]:
    values, errors = ([row[name] for row in rows] for name in ("value", "stderr"))
    return {
        "benchmark": AVERAGE,
        "metric": "mean",
        "shots": None,
        "documents": None,
        "percent": True,
        "value": None if None in values else sum(values) / len(rows),
        "stderr": None if None in errors else math.hypot(*errors) / len(rows),
    }


def markdown(recorded: dict[str, Any]) -> str:
    lines = [["benchmark", "metric", "shots", "documents", "score", "± standard error"]]
    average = [recorded["average"]] if recorded["average"] else []
    for row in [*recorded["table"], *average]:
        scale = 100 if row["percent"] else 1
        scores = [
            "–" if score is None else f"{score * scale:,.2f}"
            for score in (row["value"], row["stderr"])
        ]
        counts = ["" if row[name] is None else f"{row[name]:,}" for name in ("shots", "documents")]
        lines.append([row["benchmark"], row["metric"], *counts, *scores])
    return table(lines, left=2)
