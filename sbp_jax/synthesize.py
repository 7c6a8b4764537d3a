"""Texts for every document of a corpus, from a model: a corpus again.

    python -m sbp_jax.synthesize --config=configs/laptop.py --checkpoint=runs/laptop \\
        --input=my_texts/ --output=texts/mine --config.synthesis.prompt='{text}'

The same command goes on after any interruption, and on any number of processes at one time, each
of which takes the shards of the input that no other has: a Slurm array needs nothing else. After a
change of the prompt it asks again only for what the change concerns; OUTPUT/journal has what was
ever answered. Exit codes: 0 when the corpus is whole, 3 when --max_tokens or --max_cost ended it
before, 2 for a mistake, 130 after Ctrl-C.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import contextlib
import dataclasses
import logging
import sys
from pathlib import Path

from absl import flags
from etils import epath

import sbp_jax.data.tokens  # noqa: F401  here, for Ctrl-C breaks the import of its TensorStore
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import open_corpus, refuse_inside, refuse_over
from sbp_jax.errors import UserError
from sbp_jax.inference import bulk
from sbp_jax.inference.bulk.estimate import estimate
from sbp_jax.inference.bulk.output import local_folder
from sbp_jax.inference.engine import EngineOpener, Sampling

INPUT = flags.DEFINE_string("input", None, "Documents, as data.input, which is the default.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of the corpus.")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run or checkpoint of the model: jax, vllm.")
ENGINE = flags.DEFINE_enum("engine", "jax", ["jax", "vllm", "api"], "What generates.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Says what it would take, and does nothing.")
MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens", None, "Of prompts and texts, over all runs.", lower_bound=0
)
MAX_COST = flags.DEFINE_float(
    "max_cost", None, "By config.api's prices, over all runs.", lower_bound=0
)
RETRY_ERRORS = flags.DEFINE_bool("retry_errors", False, "Asks again for what failed before.")
RAY = flags.DEFINE_bool("ray", False, "On the Ray cluster of RAY_ADDRESS, or a local one.")
WORKERS = flags.DEFINE_integer(
    "workers", 0, "Engines on Ray; 0 is as many as there is room for.", lower_bound=0
)
log = logging.getLogger(__name__)


def main() -> None:
    experiment = cli.experiment()
    if WORKERS.value and not RAY.value:
        raise UserError("--workers needs --ray; without it, start the same command several times")
    kind, api = ENGINE.value, experiment.api
    if MAX_COST.value is not None and not (kind == "api" and (api.input_price or api.output_price)):
        raise UserError(
            "--max_cost is no limit where nothing has a price: set config.api.input_price and "
            "config.api.output_price with --engine=api, or use --max_tokens"
        )
    output = local_folder(OUTPUT.value or "")
    context = 0 if kind == "api" else experiment.engine.max_length
    job = synthesis_job(experiment, INPUT.value or experiment.data.input, output, context)
    export = str(output / "model")
    engine = EngineOpener(kind, experiment, CHECKPOINT.value, export)
    with cli.ending_at_interrupt():  # JAX is imported here, and not for --help
        model = engine.fingerprint()
    tokens, cost, again = MAX_TOKENS.value, MAX_COST.value, RETRY_ERRORS.value
    if DRY_RUN.value:
        with contextlib.closing(engine()) as opened:
            print(estimate(job, output, opened))
        return
    try:
        if RAY.value:
            gpus = experiment.engine.tensor if kind == "vllm" else 0
            bulk.run_on_ray(
                job,
                output,
                engine,
                model=model,
                workers=WORKERS.value,
                gpus=gpus,
                max_tokens=tokens,
                max_cost=cost,
                retry_errors=again,
            )
        else:
            bulk.run(
                job,
                output,
                engine,
                model=model,
                max_tokens=tokens,
                max_cost=cost,
                retry_errors=again,
            )
    except bulk.BudgetSpent as stop:
        log.info("%s", stop)
        sys.exit(3)


def synthesis_job(experiment: Experiment, spec: str, output: Path, context: int) -> bulk.Job:
    """What the config's section `synthesis` asks of every document of `spec`."""
    synthesis = experiment.synthesis
    refuse_inside(spec, output)
    prompt = synthesis.prompt
    if "{text}" not in prompt:
        prompt = _read(prompt, "config.synthesis.prompt, which is no text with {text} in it")
        if "{text}" not in prompt:
            raise UserError(f"{synthesis.prompt}: no {{text}} in it, for which documents are put")
    if synthesis.per_document > 1 and not synthesis.temperature:
        raise UserError(
            f"config.synthesis.per_document={synthesis.per_document} at temperature 0 is the same "
            "text as often; raise config.synthesis.temperature"
        )
    schema = _read(synthesis.schema, "config.synthesis.schema") if synthesis.schema else ""
    sampling = Sampling(
        max_tokens=synthesis.max_tokens,
        temperature=synthesis.temperature,
        top_p=synthesis.top_p,
        top_k=synthesis.top_k,
        schema=schema,
    )
    template = bulk.Template(prompt, sampling, synthesis.chat, synthesis.per_document)
    corpus = open_corpus(spec, experiment)
    refuse_over(spec, corpus, output)
    settings = dataclasses.asdict(template) | {"sampling": sampling.settings()}
    return bulk.Job(corpus, template, settings, experiment.seed, context=context)


def _read(path: str, what: str) -> str:
    try:
        return epath.Path(path).read_text()
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: {path!r}: not valid UTF-8") from error
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{what}: {path[:200]!r}: cannot read: {reason}") from error


if __name__ == "__main__":
    cli.run(main, needs=("config", "output"))
