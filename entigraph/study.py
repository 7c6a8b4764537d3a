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

import logging
import sys
from pathlib import Path
from typing import Any

from absl import flags

from entigraph.arms import results
from entigraph.arms.plan import (
    chosen_methods,
    chosen_shares,
    refuse,
    refuse_other_study,
    write_identity,
)
from entigraph.arms.stages import (
    Arm,
    Given,
    examination,
    first_model,
    prepare,
    train_arm,
    write_method,
)
from entigraph.generation.stages import Limits
from sbp_jax import files, parallel
from sbp_jax.config import Experiment
from sbp_jax.data.tokenizer import load_tokenizer
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
        return results.write(experiment, workdir, data, given, exam, arms, scores)


if __name__ == "__main__":
    cli.run(main)
