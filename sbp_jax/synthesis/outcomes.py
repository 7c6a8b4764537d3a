"""What the loop found, as results.json has it: arms, seeds, stages, the gap that is recovered."""

import json
import logging
import os
import platform
from collections import defaultdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sbp_jax import config, files
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import open_corpus, read_documents
from sbp_jax.data.tokenizer import load_tokenizer
from sbp_jax.evaluation.recovery import Recovery
from sbp_jax.report import write_report
from sbp_jax.synthesis import quality_table
from sbp_jax.synthesis.arms import Data, Outcome, consumed, held_out_scores
from sbp_jax.synthesis.quality import measure
from sbp_jax.synthesis.stages import Stage

log = logging.getLogger(__name__)
CONTROLS = ("random_pairs", "unconditional")
SAMPLES = 4  # documents in the report, each with two syntheses
Entries = dict[str, dict[str, Any]]  # of each arm's name


def entry(
    experiment: Experiment, workdir: Path, outcome: Outcome, stages: list[Stage]
) -> dict[str, Any]:
    """An arm of one seed."""
    loss = held_out_scores(experiment, outcome.run).metrics["loss"].recorded()
    summary = outcome.summary
    facts = json.loads((outcome.run / "held_out.json").read_text()).get("facts")
    return {
        "run": str(outcome.run.relative_to(workdir)),
        "seed": experiment.seed,
        "held_out_loss": loss["value"],
        "stderr": loss["stderr"],
        "tokens": summary["tokens"],
        "train_flops": summary["model_flops"],
        "total_flops": outcome.flops + sum(stage.flops for stage in stages),
        "wall_s": outcome.wall_s,
        "validation_losses": summary["eval_losses"],
        "consumed": consumed(outcome.run),
        "stages": [stage._asdict() for stage in stages],
        "training": {"flops": outcome.flops, "wall_s": outcome.wall_s},
        **({"settings": outcome.settings} if outcome.settings else {}),
        **({"fact_accuracy": facts} if facts else {}),
    }


def write(
    experiment: Experiment,
    workdir: Path,
    data: Data,
    seeds: list[Entries],
    variants: list[tuple[str, dict[str, Any]]],
) -> dict[str, Any]:
    """results.json and the report, which is made of nothing else."""
    arms = {name: [entries[name] for entries in seeds] for name in seeds[0]}
    recovery = Recovery(
        {
            name: [
                held_out_scores(experiment, workdir / run["run"]).metrics["loss"] for run in runs
            ]
            for name, runs in arms.items()
        },
        experiment.seed,
    )
    own = {name for name, _ in variants}
    measured = {
        name: quality(experiment, data, workdir / runs[0]["run"])
        for name, runs in arms.items()
        if name in ("sbp", *CONTROLS) or name.startswith("sbp_round")
    }
    results = {
        "title": "Synthetic Bootstrapped Pretraining",
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("jax", "flax", "optax", "numpy")},
        "corpus": corpus_counts(experiment, data),
        "arms": {
            name: [
                {k: v for k, v in run.items() if k not in ("stages", "training")} for run in runs
            ]
            for name, runs in arms.items()
            if name not in own
        },
        "gap_recovered": gap_recovered(recovery, set(arms)),
        "stages": all_stages(arms),
        **synthesis(arms),
        "samples": samples(experiment, workdir, data, arms),
        "quality": {
            **measured.get("sbp", {}),
            "controls": {name: measured[name]["table"] for name in CONTROLS if name in measured},
        },
        "rounds": rounds(recovery, arms, measured),
        "sweep": [
            {
                "settings": settings,
                "held_out_loss": [run["held_out_loss"] for run in arms[name]],
                "gap_recovered": _share(recovery, arms, name),
            }
            for name, settings in variants
        ],
        "config": json.loads(config.to_json(experiment)),
    }
    files.write_json(workdir / "report" / "results.json", results)
    tell(results)
    log.info("%s", write_report(workdir / "report", results))
    return results


def gap_recovered(recovery: Recovery, arms: set[str]) -> dict[str, Any]:
    """Of SBP: against repetition, against repetition with the best of the grid, against repetition
    with as many FLOPs, and with the best of the grid for all three; and what the controls recover
    in SBP's place.
    """
    if not {"sbp", "oracle"} <= arms:
        return {}
    found: dict[str, Any] = recovery.share("baseline", "sbp", "oracle")
    for baseline in ("tuned_baseline", "longer_baseline"):
        if baseline in arms:
            found[baseline] = recovery.share(baseline, "sbp", "oracle")
    if {"tuned_baseline", "tuned_sbp", "tuned_oracle"} <= arms:
        found["tuned"] = recovery.share("tuned_baseline", "tuned_sbp", "tuned_oracle")
    found["controls"] = {
        arm: recovery.share("baseline", arm, "oracle") for arm in CONTROLS if arm in arms
    }
    return found


def _share(recovery: Recovery, arms: dict[str, Any], arm: str) -> dict[str, Any] | None:
    return recovery.share("baseline", arm, "oracle") if "oracle" in arms else None


def all_stages(arms: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each once, though several arms may stand on it."""
    stages: dict[str, dict[str, Any]] = {}
    for name, runs in arms.items():
        for run in runs:
            of = {"seed": run["seed"], "arm": name}
            for stage in run["stages"]:
                numbers = {"flops": stage["flops"], "wall_s": stage["wall_s"]}
                stages.setdefault(stage["place"], of | {"stage": stage["name"]} | numbers)
            stages[run["run"]] = of | {"stage": "pretrain"} | run["training"]
    return list(stages.values())


def synthesis(arms: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """How SBP's documents came to be: of the first seed, but for the synthesizers."""
    if "sbp" not in arms:
        return {}
    found = [{stage["name"]: stage["found"] for stage in run["stages"]} for run in arms["sbp"]]
    pairs, written = found[0]["pair"], found[0]["synthesize"]
    return {
        "pairing": {
            "counts": pairs["counts"],
            "pairs": pairs["counts"]["pairs"],
            "scores": pairs["scores"],
        },
        "synthesizer": [stages["tune"] for stages in found],
        "synthesis": {
            "counts": written["counts"],
            "documents": written["documents"],
            "tokens": written["tokens"],
        },
    }


def quality(experiment: Experiment, data: Data, run: Path) -> dict[str, Any]:
    """Of the documents of an arm."""
    documents = run.parent / f"{run.name}_documents"
    pairs = documents / "pairs"
    record = measure(
        experiment,
        data.corpus,
        open_corpus(str(documents / "kept"), experiment),
        documents,
        real=open_corpus(experiment.eval.input, experiment),
        pairs=pairs if pairs.exists() else None,
        tokenizer=load_tokenizer(data.tokenizer),
    )
    return {"table": quality_table.rows(record), "judge": record["judge"]}


def rounds(
    recovery: Recovery,
    arms: dict[str, list[dict[str, Any]]],
    measured: dict[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    """Losses, and whether the documents become fewer kinds, or less true, from round to round."""
    names = ["sbp", *(name for name in arms if name.startswith("sbp_round"))]
    if len(names) < 2:
        return []
    return [
        {
            "round": number,
            "held_out_loss": float(np.mean([run["held_out_loss"] for run in arms[name]])),
            "gap_recovered": _share(recovery, arms, name),
            "quality": {row["metric"]: row["synthetic"] for row in measured[name]["table"]},
        }
        for number, name in enumerate(names, 1)
    ]


def samples(
    experiment: Experiment, workdir: Path, data: Data, arms: dict[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """The first documents of the corpus of which two syntheses stayed."""
    if "sbp" not in arms:
        return []
    kept = (workdir / arms["sbp"][0]["run"]).parent / "sbp_documents" / "kept"
    written = defaultdict(list)
    for document in read_documents(open_corpus(str(kept), experiment), "stop"):
        written[json.loads(document.meta)["document"]].append(document.text)
    found = []
    for document in read_documents(data.corpus, "stop"):
        if len(texts := written[document.id]) > 1:
            toy = document.id.startswith("toyworld/")  # meta of others may be anything
            concept = json.loads(document.meta).get("concept") if toy else None
            found.append({"d1": document.text, "d2": texts[:2], "concept": concept})
        if len(found) == SAMPLES:
            break
    return found


def corpus_counts(experiment: Experiment, data: Data) -> dict[str, Any]:
    held_out = open_corpus(experiment.eval.input, experiment)
    return {
        "name": data.everything.name,
        "documents": data.train.manifest["documents"],
        "tokens": data.train.num_tokens,
        "validation_documents": data.validation.manifest["documents"],
        "held_out_documents": sum(1 for _ in read_documents(held_out, experiment.data.on_error)),
        "oracle_tokens": data.oracle.num_tokens if data.oracle else None,
    }


def hardware() -> str:
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    name = platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = names[0].partition(":")[2].strip() if names else name
    linux = hasattr(os, "sched_getaffinity")
    return f"{len(os.sched_getaffinity(0)) if linux else os.cpu_count()} cores of {name}"


def tell(results: dict[str, Any]) -> None:
    for name, runs in results["arms"].items():
        log.info(
            "%-16s held-out loss %s", name, ", ".join(f"{r['held_out_loss']:.4f}" for r in runs)
        )
    if results["gap_recovered"]:
        value, low, high = (results["gap_recovered"][k] for k in ("value", "low", "high"))
        log.info(
            "gap recovered: %s [%s, %s]",
            *("?" if x is None else f"{x:.0%}" for x in (value, low, high)),
        )
