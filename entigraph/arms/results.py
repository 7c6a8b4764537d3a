"""What a study found, as results.json has it: scores, differences with paired intervals, laws."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from entigraph.arms import rewriter
from entigraph.arms.knowledge import FACTS, OPEN, Examination
from entigraph.arms.report import write_report
from entigraph.arms.stages import RAW, Arm, Data, Given
from entigraph.evaluation.forgetting import GENERAL, new_without_loss
from entigraph.laws.scaling_points import read_points
from entigraph.scaling import fit
from sbp_jax import config, files
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import open_corpus, read_documents
from sbp_jax.evaluation.compare import compare
from sbp_jax.evaluation.comparison import Comparison
from sbp_jax.evaluation.scores import Results
from sbp_jax.synthesis.outcomes import hardware

BEFORE = "before"
SAMPLES = 3  # texts of each method in the report
CURVE = 40  # points of a fitted law's line
log = logging.getLogger(__name__)
Scores = Mapping[str, Results]


def write(
    experiment: Experiment,
    workdir: Path,
    data: Data,
    given: Given,
    exam: Examination,
    arms: Mapping[Arm, dict[str, Any]],
    scores: Scores,
) -> dict[str, Any]:
    """results.json and the report, which is made of nothing else."""
    whole = [arm for arm in arms if arm.share == 1]
    by_rewriter = bool(data.toy) and given.engine == "none"
    results = {
        "title": "EntiGraph: a small library taught to a model",
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("jax", "flax", "optax", "numpy")},
        "note": rewriter.NOTE if by_rewriter else "",
        "rewriter": by_rewriter,
        "library": library(data),
        "before": measured(scores[BEFORE], exam),
        "arms": [
            {
                **vars(arm),
                **trained,
                **measured(scores[arm.name], exam),
            }
            for arm, trained in arms.items()
        ],
        "against_before": against(BEFORE, whole, scores, exam, experiment.seed),
        "against_raw": against(
            Arm(RAW, 1).name, [a for a in whole if a.method != RAW], scores, exam, experiment.seed
        ),
        "scaling": scaling(workdir, arms, experiment.seed),
        "samples": samples(experiment, workdir, data, whole),
        "config": json.loads(config.to_json(experiment)),
    }
    files.write_json(workdir / "report" / "results.json", results)
    tell(results)
    log.info("%s", write_report(workdir / "report", results))
    return results


def library(data: Data) -> dict[str, Any]:
    return {
        "documents": len(data.library),
        "characters": sum(len(text.text) for text in data.library),
        "questions": sum(len(article.questions) for article in data.articles),
        "general_documents": files.read_manifest(data.folder / "general")["documents"],
        "held_out_documents": files.read_manifest(data.folder / "held_out")["documents"],
        "general_questions": sum(len(article.questions) for article in data.facts),
    }


def _metrics(exam: Examination) -> dict[str, tuple[str, str]]:
    """Task and metric under the names of results.json."""
    return {
        "closed_book": (exam.closed, "accuracy"),
        "open_book": (OPEN, "accuracy"),
        "general_facts": (FACTS, "accuracy"),
        "general_loss": (GENERAL, "loss"),
    }


def measured(results: Results, exam: Examination) -> dict[str, Any]:
    found = {}
    for name, (task, metric) in _metrics(exam).items():
        if task in results.recorded["tasks"]:
            score = results.recorded["tasks"][task]["metrics"][metric]
            low, high = score["interval"] or (None, None)
            found[name] = {"value": score["value"], "low": low, "high": high}
    return found


def against(
    first: str, arms: Sequence[Arm], scores: Scores, exam: Examination, seed: int
) -> dict[str, Any]:
    """By method: differences from the first model, question by question."""
    found = {}
    for arm in arms if first in scores else ():
        comparison = compare([scores[first], scores[arm.name]], seed=seed)
        found[arm.method] = _differences(comparison, exam)
        if first == BEFORE:
            found[arm.method]["new_without_loss"] = new_without_loss(comparison)
    return found


def _differences(comparison: Comparison, exam: Examination) -> dict[str, Any]:
    cells = {(row.task, row.metric): row.cells[1] for row in comparison.rows if not row.clean}
    found: dict[str, Any] = {}
    for name, place in _metrics(exam).items():
        if cell := cells.get(place):
            low, high = (x if math.isfinite(x) else None for x in cell.interval)
            found[name] = {"value": cell.delta, "low": low, "high": high, "mark": cell.mark}
    return found


def scaling(workdir: Path, arms: Mapping[Arm, dict[str, Any]], seed: int) -> dict[str, Any]:
    """Accuracy against synthetic tokens, and the law of each method that has several shares."""
    found = {}
    for method in dict.fromkeys(arm.method for arm in arms):
        of_method = {arm: trained for arm, trained in arms.items() if arm.method == method}
        if len(of_method) < 2:
            continue
        spec = [f"0:{workdir / 'scores' / BEFORE}"]
        spec += [
            f"{trained['synthetic_tokens']}:{workdir / 'scores' / arm.name}"
            for arm, trained in of_method.items()
        ]
        points, _ = read_points(",".join(spec))
        laws = fit(points, seed=seed)
        grid = np.geomspace(points.x[1], points.x[-1], CURVE)
        found[method] = {
            "laws": {name: law.record() for name, law in laws.items()},
            "curve": {
                "tokens_millions": grid.tolist(),
                "percent": laws["log_linear"](grid).tolist(),
            },
        }
    return found


def samples(
    experiment: Experiment, workdir: Path, data: Data, arms: Sequence[Arm]
) -> list[dict[str, Any]]:
    """What each method makes of the first document."""
    source = data.library[0]
    found = []
    for arm in arms:
        corpus = open_corpus(str(workdir / "arms" / arm.name / "texts"), experiment)
        texts = (
            document.text
            for document in read_documents(corpus, "stop")
            if json.loads(document.meta).get("document") == source.id
        )
        if some := list(islice(texts, SAMPLES)):
            found.append({"method": arm.method, "title": source.title, "texts": some})
    return [{"method": "", "title": source.title, "texts": [source.text]}, *found]


def tell(results: dict[str, Any]) -> None:
    rows = [{"method": BEFORE, "share": 1, **results["before"]}, *results["arms"]]
    for row in rows:
        log.info(
            "%-20s %3.0f%%  closed book %.3f  open book %.3f  general text %.4f nats a token",
            row["method"], 100 * row["share"], row["closed_book"]["value"],
            row["open_book"]["value"], row["general_loss"]["value"],
        )  # fmt: skip
