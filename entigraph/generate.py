"""A small library written anew, many times over: a corpus to continue pretraining on.

    python -m entigraph.generate --config=configs/laptop.py --input=my_texts/ --output=W \\
        --engine=api --config.api.url=http://localhost:8000/v1 --config.api.model=NAME --dry_run
    python -m entigraph.generate --config=configs/laptop.py --input=my_texts/ --output=W \\
        --method=extractive

Writes W/METHOD, a corpus whose rows say what document, entities, model and prompt each is from. The
same command goes on after any interruption, asks for nothing twice, and after a change of a prompt
only for what that concerns. Exit codes: 0 when the corpus is whole, 3 when --max_tokens or
--max_cost ended it before, 2 for a mistake, 130 after Ctrl-C.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import contextlib
import logging
import sys

from absl import flags

import sbp_jax.data.tokens  # noqa: F401  here, for Ctrl-C breaks the import of its TensorStore
from entigraph.generation.estimate import estimate
from entigraph.generation.generator import generator
from entigraph.generation.methods import METHODS
from entigraph.generation.stages import Limits, generate
from entigraph.generation.synthesis import Synthesis
from entigraph.library import read_library
from sbp_jax.data.corpus import open_corpus, refuse_inside, refuse_over
from sbp_jax.errors import UserError
from sbp_jax.inference import bulk
from sbp_jax.inference.bulk.output import local_folder

INPUT = flags.DEFINE_string("input", None, "The library, as data.input, or QuALITY's JSONL.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of the corpora, one for each method.")
METHOD = flags.DEFINE_enum("method", "entigraph", list(METHODS), "What is asked for.")
ENGINE = flags.DEFINE_enum(
    "engine", None, ["jax", "vllm", "api", "none"], "What writes; none with --method=extractive."
)
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run or checkpoint of the model: jax, vllm.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Says what it would take, and does nothing.")
MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens", None, "Of prompts and texts of all stages, over all runs.", lower_bound=0
)
MAX_COST = flags.DEFINE_float(
    "max_cost", None, "By config.api's prices, of all stages, over all runs.", lower_bound=0
)
RETRY_ERRORS = flags.DEFINE_bool("retry_errors", False, "Asks again for what failed before.")
log = logging.getLogger(__name__)


def main() -> None:
    experiment, method = cli.experiment(), METHOD.value
    spec, output = INPUT.value or "", local_folder(OUTPUT.value or "")
    kind = _engine(method, ENGINE.value)
    refuse_inside(spec, output)
    refuse_over(spec, open_corpus(spec, experiment), output)
    texts = read_library(spec, experiment)
    with cli.ending_at_interrupt():  # JAX is imported here, and not for --help
        writer = generator(kind, experiment, CHECKPOINT.value, output / "work")
    if MAX_COST.value is not None and not writer.priced:
        raise UserError(
            "--max_cost is no limit where nothing has a price: set config.api.input_price and "
            "config.api.output_price with --engine=api, or use --max_tokens"
        )
    if DRY_RUN.value:
        with contextlib.closing(writer.open()) as engine:
            print(estimate(Synthesis(experiment, texts, method, writer, output), engine))
        return
    limits = Limits(MAX_TOKENS.value, MAX_COST.value, RETRY_ERRORS.value)
    try:
        generate(experiment, texts, output, method, writer, limits)
    except bulk.BudgetSpent as stop:
        log.info("%s", stop)
        sys.exit(3)


def _engine(method: str, kind: str | None) -> str:
    if METHODS[method].needs_engine:
        if kind in (None, "none"):
            raise UserError(f"--method={method} needs a model: --engine=jax, vllm or api")
        return str(kind)
    if kind not in (None, "none"):
        raise UserError(f"--method={method} asks no model; leave --engine={kind} out")
    return "none"


if __name__ == "__main__":
    cli.run(main, needs=("config", "input", "output"))
