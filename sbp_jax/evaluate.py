"""Scores of a model, as lm-eval computes them; and models compared.

    python -m sbp_jax.evaluate --checkpoint=runs/laptop --suite=sbp [--tasks_dir=DIR] --workdir=W
    python -m sbp_jax.evaluate --checkpoint=runs/laptop --perplexity=held_out.jsonl --workdir=W
    python -m sbp_jax.evaluate --compare W1 W2 W3 [--paper=200b_3b] [--workdir=W]
    python -m sbp_jax.evaluate --contamination=my_texts/ --workdir=W
    python -m sbp_jax.evaluate --checkpoint=runs/laptop --budget_forcing=max=512,waits=0+2 \\
        --problems=maths.jsonl --workdir=W

--suite is `sbp`, the paper's table, or names of lm-eval's tasks with commas between them. Rows come
from the Hugging Face hub, or from DIR: TASK.jsonl or TASK/SPLIT.jsonl with the hub's columns;
DIR/*.yaml are tasks of one's own. W/results.json has all scores, W/samples what each document got.
The same command goes on after an interruption, and skips what is scored.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import importlib.util
import itertools
import logging
import os
import sys
from pathlib import Path
from typing import Any

from absl import flags

from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.errors import UserError

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run, checkpoint or Hugging Face folder.")
SUITE = flags.DEFINE_string("suite", None, "sbp (the default), or tasks of lm-eval.")
TASKS_DIR = flags.DEFINE_string("tasks_dir", "", "Folder with rows, and tasks of one's own.")
LIMIT = flags.DEFINE_integer("limit", None, "Documents of a task at most.", lower_bound=1)
ENGINE = flags.DEFINE_enum(
    "engine",
    "jax",
    ["jax", "hf", "vllm", "api"],
    "What runs the model: ours, or lm-eval's own backends on an exported copy; api is for "
    "--budget_forcing.",
)
PERPLEXITY = flags.DEFINE_string("perplexity", None, "Corpus to measure, as data.input.")
STRIDE = flags.DEFINE_integer(
    "stride", 0, "New tokens in a window of --perplexity; 0 is half the context.", lower_bound=0
)
COMPARE = flags.DEFINE_bool("compare", False, "Compares the folders named after it to the first.")
PAPER = flags.DEFINE_enum(
    "paper", None, ["200b_3b", "1t_3b", "1t_6b"], "The paper's figures beside --compare's."
)
CONTAMINATION = flags.DEFINE_string(
    "contamination", None, "Corpus, as data.input: which documents of W's tasks are in it?"
)
BUDGET_FORCING = flags.DEFINE_string(
    "budget_forcing", None, "Thinking budgets: max=512,waits=0+2,votes=1+4; see docs/evaluation.md."
)
PROBLEMS = flags.DEFINE_string("problems", None, "JSONL of --budget_forcing: question, answer.")
log = logging.getLogger(__name__)


def main(*arguments: str) -> None:
    check_flags()
    if COMPARE.value:
        return compare(arguments)
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}; flags begin with --")
    if BUDGET_FORCING.value is not None:
        return force_budgets(BUDGET_FORCING.value)
    if CHECKPOINT.value:
        evaluate(CHECKPOINT.value)
    elif CONTAMINATION.value is None or SUITE.value or PERPLEXITY.value:
        raise UserError("--checkpoint is missing, or --compare, or --contamination; see --help")
    if CONTAMINATION.value is not None:
        check_contamination(CONTAMINATION.value)


def check_flags() -> None:
    """Refuses flags that nothing would read: a score may have been meant to depend on them."""
    modes = (COMPARE, BUDGET_FORCING, CONTAMINATION, PERPLEXITY, SUITE)
    given = [mode.name for mode in modes if mode.value not in (False, None)]
    alone = {COMPARE.name, BUDGET_FORCING.name}.intersection(given)
    if alone and len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} are two commands")
    for flag, of in ((PAPER, COMPARE), (PROBLEMS, BUDGET_FORCING), (STRIDE, PERPLEXITY)):
        if flag.value and of.name not in given:
            raise UserError(f"--{flag.name} is of use with --{of.name} only")
    for flag in (CONTAMINATION, PERPLEXITY, SUITE):
        if flag.value == "":  # as --contamination=$UNSET is
            raise UserError(f"--{flag.name} is empty")
    if alone and TASKS_DIR.value:
        raise UserError(f"--{TASKS_DIR.name} is of no use with --{given[0]}")


def evaluate(checkpoint: str) -> None:
    """Scores of the suite, or of --perplexity's corpus, or both."""
    if ENGINE.value == "api":
        raise UserError("--engine=api is for --budget_forcing; log-likelihoods need the model")
    if PERPLEXITY.value and ENGINE.value != "jax":
        raise UserError(f"--perplexity is measured by --engine=jax, not {ENGINE.value}")
    suite = SUITE.value or ("" if PERPLEXITY.value else "sbp")
    if not importlib.util.find_spec("lm_eval"):
        raise UserError('lm-eval is not installed: pip install "sbp_jax[eval]"')
    with cli.ending_at_interrupt():
        _quieten()
        from sbp_jax.evaluation import results
        from sbp_jax.evaluation.run import run
        from sbp_jax.evaluation.tasks import plan
        from sbp_jax.training.checkpoint import fingerprint

    folder = _folder()
    planned = plan(suite, TASKS_DIR.value, log.info) if suite else []
    identity = {"model": fingerprint(checkpoint), "engine": ENGINE.value}
    with files.exclusive(folder / ".lock", f"{folder}: another process evaluates here"):
        model = open_model(checkpoint, folder)
        entries = run(planned, model, folder, identity=identity, limit=LIMIT.value)
        if PERPLEXITY.value:
            scores = measure_perplexity(model, PERPLEXITY.value)
            entries["perplexity"] = scores.write(folder, "perplexity")
        told = {
            "name": _name(checkpoint),
            "checkpoint": checkpoint,
            **identity,
            "suite": suite,
            "limit": LIMIT.value,
        }
        recorded = results.assemble(told, entries)
        files.write_json(folder / "results.json", recorded)
    table = results.markdown(recorded)
    files.write_bytes(folder / "table.md", table.encode())
    print(table, end="")
    log.info("%s", folder / "results.json")


def open_model(checkpoint: str, folder: Path) -> Any:
    """As lm-eval sees it."""
    experiment = _experiment()
    if ENGINE.value == "jax":
        from sbp_jax.evaluation.harness import HarnessModel
        from sbp_jax.inference.sampler import Sampler

        return HarnessModel(Sampler.from_checkpoint(checkpoint, experiment.engine))
    from sbp_jax.evaluation import backends

    return backends.open_backend(ENGINE.value, checkpoint, folder / "model", experiment.engine)


def measure_perplexity(model: Any, spec: str) -> Any:
    from sbp_jax.data.corpus import open_corpus, read_documents
    from sbp_jax.evaluation.perplexity import perplexity

    experiment = _experiment()
    documents = read_documents(open_corpus(spec, experiment), experiment.data.on_error)
    return perplexity(model.sampler, itertools.islice(documents, LIMIT.value), stride=STRIDE.value)


def compare(folders: tuple[str, ...]) -> None:
    """Markdown on the terminal; --workdir gets it with JSON and HTML."""
    from sbp_jax.evaluation.compare import compare
    from sbp_jax.evaluation.scores import Results
    from sbp_jax.evaluation.suite import PAPER as FIGURES

    paper = FIGURES[PAPER.value] if PAPER.value else None
    comparison = compare([Results.read(folder) for folder in folders], paper, _experiment().seed)
    if cli.WORKDIR.value:
        comparison.write(Path(cli.WORKDIR.value))
    print(comparison.markdown(), end="")


def check_contamination(spec: str) -> None:
    from sbp_jax.data.corpus import open_corpus
    from sbp_jax.evaluation import contamination
    from sbp_jax.evaluation.scores import Results

    experiment = _experiment()
    corpus = open_corpus(spec, experiment)
    found = contamination.check(
        Results.read(_folder()), corpus, os.cpu_count() or 1, experiment.data.on_error
    )
    print(contamination.markdown(found), end="")


def force_budgets(text: str) -> None:
    """Accuracy against tokens of thinking, in sequence and in parallel."""
    from sbp_jax.evaluation import test_time
    from sbp_jax.inference.engine import EngineOpener

    settings = test_time.parse(text)
    if not PROBLEMS.value:
        raise UserError("--budget_forcing needs --problems=FILE: JSONL with question and answer")
    problems = test_time.read_problems(PROBLEMS.value)[: LIMIT.value]
    if ENGINE.value == "hf":
        raise UserError("--budget_forcing runs on --engine=jax, vllm or api")
    folder = _folder()
    opener = EngineOpener(ENGINE.value, _experiment(), CHECKPOINT.value, str(folder / "model"))
    with cli.ending_at_interrupt():
        engine = opener()
    found = test_time.run(engine, problems, settings)
    files.write_json(folder / "test_time.json", found)
    print(test_time.markdown(found), end="")
    log.info("%s", folder / "test_time.json")


def _quieten() -> None:
    if not sys.stderr.isatty():  # a line now and then in a log
        os.environ.setdefault("TQDM_MININTERVAL", "30")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for noisy in ("lm_eval", "datasets", "huggingface_hub", "httpx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _experiment() -> Experiment:
    """Engine, columns of a corpus and seed are those of --config, if one is given."""
    return cli.experiment() if cli.CONFIG.value else Experiment()


def _folder() -> Path:
    if cli.WORKDIR.value:
        return Path(files.absolute(cli.WORKDIR.value))
    if not CHECKPOINT.value:
        raise UserError("--workdir is missing: the folder of an evaluation")
    if files.is_remote(CHECKPOINT.value):
        raise UserError("--workdir is missing: results are written to a local folder")
    return Path(files.absolute(CHECKPOINT.value)) / "evaluation"


def _name(checkpoint: str) -> str:
    """How tables call it: the run, and the step of one of its checkpoints."""
    parts = [part for part in checkpoint.rstrip("/").split("/") if part not in (".", "checkpoints")]
    return "/".join(parts[-2:] if parts[-1].isdigit() else parts[-1:])


if __name__ == "__main__":
    cli.run(main, needs=(), arguments=None)
