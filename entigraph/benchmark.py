"""A file of four-way questions about the user's own documents.

    python -m entigraph.benchmark --config=configs/my_server.py --engine=api \\
        --input=my_texts/ --output=questions.jsonl

An engine writes questions about each document, or each window of a long one, and answers them with
the text and without; what the text does not answer, or anybody could guess, is left out. The file
is in QuALITY's form, documents included, for `python -m entigraph.evaluate --questions=FILE`;
FILE.report.json counts what was left out and why. The same command goes on after an interruption:
FILE.work has what was ever answered. Exit codes: 0, 3 when --max_tokens or --max_cost ended it, 2
for a mistake.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from entigraph.evaluation.asking import Asker, Budget, DryRun, Prompts
from entigraph.evaluation.question_writing import write_questions
from entigraph.evaluation.questions import Article, fingerprint, line_of
from entigraph.generation.generator import counter, estimated
from entigraph.library import Text, read_library
from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import refuse_inside
from sbp_jax.errors import UserError
from sbp_jax.inference.bulk import BudgetSpent
from sbp_jax.inference.bulk.output import local_folder
from sbp_jax.inference.engine import EngineOpener

INPUT = flags.DEFINE_string("input", None, "Documents, as data.input.")
OUTPUT = flags.DEFINE_string("output", None, "JSONL file of questions.")
ENGINE = flags.DEFINE_enum("engine", "api", ["jax", "vllm", "api"], "What writes and checks.")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run or checkpoint of the model: jax, vllm.")
PER_WINDOW = flags.DEFINE_integer("per_window", 8, "Questions asked for.", lower_bound=1)
WINDOW = flags.DEFINE_integer("window", 4000, "Tokens of a document at a time.", lower_bound=1)
ANSWER_TOKENS = flags.DEFINE_integer("answer_tokens", 4096, "Of the questions of a window.")
MAX_TOKENS = flags.DEFINE_integer("max_tokens", None, "Of prompts and texts, over all runs.")
MAX_COST = flags.DEFINE_float("max_cost", None, "By config.api's prices, over all runs.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Says what writing takes; checks come on top.")
RETRY_ERRORS = flags.DEFINE_bool("retry_errors", False, "Asks again for what failed before.")
log = logging.getLogger(__name__)


def main() -> None:
    experiment = cli.experiment() if cli.CONFIG.value else Experiment()
    if MAX_COST.value is not None and ENGINE.value != "api":
        raise UserError("--max_cost is no limit where nothing has a price; use --max_tokens")
    output = local_folder(OUTPUT.value or "")
    work = output.with_name(output.name + ".work")
    refuse_inside(INPUT.value or "", output)
    library = read_library(INPUT.value or "", experiment)
    with files.exclusive(work / ".lock", f"{output}: another process is at work there"):
        try:
            articles, counts = _write(library, experiment, work)
        except DryRun:
            return
        except BudgetSpent as stop:
            log.info("%s", stop)
            sys.exit(3)
        for name, number in counts.items():
            print(f"{name.replace('_', ' '):<20} {number:>8,}")
        if not articles:
            raise UserError(
                f"{INPUT.value}: none of {counts['written']} questions passed; a more capable "
                "model writes better ones"
            )
        files.write_bytes(output, "".join(map(line_of, articles)).encode())
        report = {**counts, "articles": len(articles), "fingerprint": fingerprint(articles)}
        files.write_json(output.with_name(output.name + ".report.json"), report)
    log.info("%s: %s questions about %s texts", output, f"{counts['kept']:,}", len(articles))


def _write(
    library: list[Text], experiment: Experiment, work: Path
) -> tuple[list[Article], dict[str, int]]:
    engine = EngineOpener(ENGINE.value, experiment, CHECKPOINT.value, str(work / "model"))
    count: Callable[[str], int] = estimated
    if CHECKPOINT.value:
        from sbp_jax.data.tokenizer import load_tokenizer
        from sbp_jax.training.checkpoint import tokenizer_path

        count = counter(load_tokenizer(tokenizer_path(CHECKPOINT.value)))
    settings = experiment.entigraph
    budget = Budget(MAX_TOKENS.value, MAX_COST.value)
    ask = Asker(experiment, engine, work, budget, settings.chat, RETRY_ERRORS.value, DRY_RUN.value)
    return write_questions(
        library,
        ask,
        Prompts(settings.prompts),
        count=count,
        window=WINDOW.value,
        per_window=PER_WINDOW.value,
        new_tokens=ANSWER_TOKENS.value,
        schema=ENGINE.value != "jax",
        seed=experiment.seed,
    )


if __name__ == "__main__":
    cli.run(main, needs=("input", "output"))
