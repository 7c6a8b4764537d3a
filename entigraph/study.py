"""A small library taught to a model, by several methods at equal tokens; what it knows before and
after, and what it has forgotten. Ends in a report.

    python -m entigraph.study --config=configs/entigraph_laptop.py --workdir=runs/entigraph
    python -m entigraph.study --config=F --workdir=W --input=my_texts/ --questions=my.jsonl \\
        --init_from=Llama-3-8B --engine=vllm --checkpoint=Qwen3-8B

The first needs nothing: a model of the toy world's general part, a library of the rest, and a
rewriter in place of a language model. The second is about a user's documents and model; general
text, for replay and for what is forgotten, is config.data.input. Each stage lies in a folder of the
workdir and is skipped where it is finished, so the same command goes on after any interruption.
Exit codes: 0, 3 when --max_tokens or --max_cost ended it, 2 for a mistake, 130 after Ctrl-C.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.use_huge_pages()
    cli.end_at_interrupt()  # before the slow imports

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

from absl import flags

from entigraph import study_results
from entigraph.methods import METHODS
from entigraph.stages import Limits
from entigraph.study_stages import (
    RAW,
    Arm,
    Given,
    examination,
    first_model,
    prepare,
    train_arm,
    write_method,
)
from sbp_jax import config, files, parallel
from sbp_jax.config import Experiment
from sbp_jax.data.tokenizer import load_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference import bulk
from sbp_jax.inference.bulk.output import local_folder
from sbp_jax.train import INIT_FROM, keep_compiled
from sbp_jax.training.checkpoint import check_architecture, tokenizer_path

INPUT = flags.DEFINE_string(
    "input", "", "The library; none is the toy world's.", allow_override=True
)
QUESTIONS = flags.DEFINE_string("questions", "", "Four-way questions about it, in QuALITY's form.")
ENGINE = flags.DEFINE_enum(
    "engine", "none", ["none", "jax", "vllm", "api"], "What writes; none: see above."
)
CHECKPOINT = flags.DEFINE_string("checkpoint", "", "The model that writes, for jax and vllm.")
MAX_TOKENS = flags.DEFINE_integer("max_tokens", None, "Of each method's prompts and texts.")
MAX_COST = flags.DEFINE_float("max_cost", None, "Of each method, by config.api's prices.")
log = logging.getLogger(__name__)


def main() -> None:
    parallel.start_processes()
    experiment, workdir = cli.experiment(), local_folder(cli.WORKDIR.value or "")
    given = Given(
        INPUT.value, QUESTIONS.value, INIT_FROM.value or experiment.init_from, ENGINE.value,
        CHECKPOINT.value, Limits(MAX_TOKENS.value, MAX_COST.value),
    )  # fmt: skip
    keep_compiled(files.absolute(workdir) / "compiled")  # all arms run one program
    try:
        study(experiment, workdir, given)
    except bulk.BudgetSpent as stop:
        log.info("%s; the same command with a higher limit goes on", stop)
        sys.exit(3)


def study(experiment: Experiment, workdir: Path, given: Given) -> dict[str, Any]:
    """Everything, to the report; returns what is in its results.json."""
    methods, shares = chosen_methods(experiment), chosen_shares(experiment)
    refuse(experiment, given)
    refuse_other_study(experiment, given, workdir)
    with files.exclusive(workdir / ".lock", f"{workdir}: another process is at work there"):
        data = prepare(experiment, given, workdir / "data")
        write_identity(experiment, given, workdir)
        log.info("== the model before")
        model = first_model(experiment, data, given, workdir / "model")
        check_architecture(model, experiment.model, allow_change=False)
        exam = examination(experiment, data)
        scores = {"before": exam.score(experiment, "before", model, workdir / "scores" / "before")}
        tokenizer = load_tokenizer(tokenizer_path(model))
        arms: dict[Arm, dict[str, Any]] = {}
        for method in methods:
            log.info("== %s", method)
            folder = workdir / "texts"
            texts = write_method(experiment, data, given, method, tokenizer, folder)
            for arm in (Arm(method, share) for share in shares):
                log.info("== %s: %d %% of the tokens", method, 100 * arm.share)
                place = workdir / "arms" / arm.name
                arms[arm] = train_arm(experiment, data, model, arm, texts, place)
                run, folder_ = str(place / "run"), workdir / "scores" / arm.name
                scores[arm.name] = exam.score(experiment, arm.name, run, folder_)
        return study_results.write(experiment, workdir, data, given, exam, arms, scores)


def chosen_methods(experiment: Experiment) -> list[str]:
    methods = [m.strip() for m in experiment.study.methods.split(",") if m.strip()]
    if unknown := [m for m in methods if m not in (RAW, *METHODS)]:
        raise UserError(
            f"config.study.methods: {unknown[0]!r} is none; there are {RAW}, {', '.join(METHODS)}"
        )
    if not methods or len(set(methods)) < len(methods):
        raise UserError("config.study.methods names no method, or one twice")
    return methods


def chosen_shares(experiment: Experiment) -> list[float]:
    text = experiment.study.shares
    try:
        shares = sorted({float(part) for part in text.split(",")})
    except ValueError as error:
        raise UserError(f"config.study.shares is {text!r}; write it as '0.25,0.5,1'") from error
    if not 0 < shares[0] <= shares[-1] == 1:
        raise UserError(f"config.study.shares is {text!r}; they lie above 0, and the last is 1")
    return shares


def refuse(experiment: Experiment, given: Given) -> None:
    """What could only fail later."""
    if bool(given.library) != bool(given.questions):
        raise UserError("--input and --questions belong together: the library, and what is asked")
    if given.library and not given.model:
        raise UserError("--init_from is missing: the model that is to learn the library of --input")
    if given.model and not given.library:
        raise UserError(
            "--init_from: the toy world has a model of its own; name --input and --questions"
        )
    if not given.library and experiment.data.input != "toyworld":
        raise UserError(
            f"config.data.input={experiment.data.input}: without --input the study is about the "
            "toy world, config.data.input=toyworld"
        )


def identity(experiment: Experiment, given: Given) -> dict[str, Any]:
    shown = dataclasses.asdict(given)
    shown.pop("limits")  # which may be raised
    return {"config": config.to_json(experiment), "given": shown}


def refuse_other_study(experiment: Experiment, given: Given, workdir: Path) -> None:
    """A workdir is of one study; methods and shares may be added to it."""
    if not (workdir / "study.json").exists():
        return
    recorded = files.read_record(workdir / "study.json", "config", "given")
    changed = [
        line
        for line in config.differences(recorded["config"], experiment)
        if not line.startswith(("config.study.methods", "config.study.shares"))
    ]
    new = identity(experiment, given)["given"]
    changed += [f"{k}: {recorded['given'].get(k)!r} -> {new[k]!r}" for k in new
                if recorded["given"].get(k) != new[k]]  # fmt: skip
    if changed:
        raise UserError(
            f"{workdir} belongs to another study ({'; '.join(changed)}); use another --workdir"
        )


def write_identity(experiment: Experiment, given: Given, workdir: Path) -> None:
    files.write_json(workdir / "study.json", identity(experiment, given))


if __name__ == "__main__":
    cli.run(main)
