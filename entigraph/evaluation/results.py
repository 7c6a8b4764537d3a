"""results.json: all that was measured of one model, and the one table of it.

It is in the form of `sbp_jax.evaluate`, so that folders of both are compared by the same rules.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from entigraph.evaluation.outcomes import interval
from entigraph.evaluation.questions import SPLITS, Article, fingerprint, split
from sbp_jax.evaluation import results
from sbp_jax.evaluation.markdown import table
from sbp_jax.evaluation.scores import read_task

NAMES = {
    "closed_book": "closed book",
    "likelihood": "closed book, by likelihood",
    "likelihood_per_byte": "closed book, by likelihood per byte",
    "open_book": "open book",
    "summaries": "summaries, of the reference's count",
    "general_text": "general text",
}
SHARES = ("accuracy", "hard", "easy", "parse_rate", "sample_parse_rate")
MAIN = {"general_text": ("loss", "perplexity")}  # what the table has, where that is not everything


def assemble(
    told: Mapping[str, Any], entries: Mapping[str, Any], folder: Path, seed: int
) -> dict[str, Any]:
    with_intervals = {task: _with_intervals(folder, task, e, seed) for task, e in entries.items()}
    recorded = results.assemble(dict(told), with_intervals)
    rows = []
    for row in recorded["table"]:
        task, metric = row["task"], row["metric"]
        if metric in MAIN.get(task, (metric,)):
            ours = task in NAMES
            found = with_intervals[task]["metrics"][metric]["interval"]
            row |= {"interval": found, "questions": with_intervals[task].get("questions")}
            row |= {"benchmark": NAMES[task], "percent": metric in SHARES} if ours else {}
            rows.append(row)
    return {**recorded, "table": rows}


def earlier(
    folder: Path, identity: Mapping[str, Any], articles: Sequence[Article]
) -> dict[str, Any]:
    """Entries that other commands left here, of the same model; where questions are named now, of
    no others.
    """
    try:
        recorded = json.loads((folder / "results.json").read_text())
        if any(recorded[name] != value for name, value in identity.items()):
            return {}
        entries = recorded["tasks"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    if not articles:
        return entries
    parts = [split(articles, name) for name in (SPLITS if len(articles) > 1 else ("all",))]
    known = {None, *map(fingerprint, parts)}
    return {task: entry for task, entry in entries.items() if entry.get("asked") in known}


def markdown(recorded: Mapping[str, Any]) -> str:
    lines = [["measured", "metric", "questions", "articles", "score", "95% interval"]]
    for row in recorded["table"]:
        scale, digits = (100, 2) if row["percent"] else (1, 4)

        def number(x: float | None, scale: int = scale, digits: int = digits) -> str:
            return "–" if x is None else f"{x * scale:,.{digits}f}"

        low, high = row["interval"] or (None, None)
        between = "–" if low is None else f"{number(low)} to {number(high)}"
        questions = "" if row["questions"] is None else f"{row['questions']:,}"
        metric = row["metric"].replace("_", " ") + (" %" if row["percent"] else "")
        score, documents = number(row["value"]), f"{row['documents']:,}"
        lines.append([row["benchmark"], metric, questions, documents, score, between])
    notes = [
        "Intervals: articles (of general text and benchmarks: documents) resampled. Accuracy is "
        "over all questions; parse rate is the share of them with an answer in any sample."
    ]
    return table(lines, left=2) + "".join(f"\n{note}\n" for note in notes)


def _with_intervals(folder: Path, task: str, entry: dict[str, Any], seed: int) -> dict[str, Any]:
    scores = read_task(folder, task, entry)
    metrics = {
        name: {
            **entry["metrics"][name],
            "interval": interval(score, f"{seed}/{task}/{name}", share=name in SHARES),
        }
        for name, score in scores.metrics.items()
    }
    return {**entry, "metrics": metrics}
