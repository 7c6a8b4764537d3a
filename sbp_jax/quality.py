"""How good a synthetic corpus is, beside the real one that it was made from.

    python -m sbp_jax.quality --config=configs/laptop.py --workdir=runs/b/quality \\
        --input=runs/b/seed0/sbp_documents/kept --corpus=runs/b/data/train
    ... --judge=api --config.api.url=http://localhost:8000/v1 --config.api.model=NAME

Writes W/quality.json and prints the table; what is measured already is not measured again, and a
judge is asked nothing twice. docs/quality.md says what each figure is.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

from absl import flags

import sbp_jax.data.tokens  # noqa: F401  here, for Ctrl-C breaks the import of its TensorStore
from sbp_jax.data.corpus import open_corpus
from sbp_jax.data.tokenizer import load_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference.bulk.output import local_folder
from sbp_jax.inference.engine import EngineOpener

INPUT = flags.DEFINE_string("input", None, "The synthetic documents, as data.input.")
CORPUS = flags.DEFINE_string("corpus", None, "The real ones that the seeds were drawn from.")
REAL = flags.DEFINE_string(
    "real", None, "Real documents beside them, not in the corpus; default config.eval.input."
)
PAIRS = flags.DEFINE_string("pairs", None, "Folder of sbp_jax.pair: real pairs beside.")
JUDGE = flags.DEFINE_enum("judge", None, ["jax", "vllm", "api"], "What judges, if anything.")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run or checkpoint of the judge: jax, vllm.")


def main() -> None:
    e = cli.experiment()
    workdir = local_folder(cli.WORKDIR.value or "")
    if CHECKPOINT.value and JUDGE.value not in ("jax", "vllm"):
        raise UserError("--checkpoint is of a judge: --judge=jax or --judge=vllm")
    corpus, synthetic = (open_corpus(spec, e) for spec in (CORPUS.value or "", INPUT.value or ""))
    spec = REAL.value or e.eval.input
    real = open_corpus(spec, e) if spec else None
    judge = None
    if JUDGE.value:
        judge = EngineOpener(JUDGE.value, e, CHECKPOINT.value, str(workdir / "model"))
    tokenizer = load_tokenizer(e.data.tokenizer) if e.data.tokenizer else None
    with cli.ending_at_interrupt():  # JAX is imported here, and not for --help
        from sbp_jax.synthesis.quality import measure
        from sbp_jax.synthesis.quality_table import markdown
    pairs = local_folder(PAIRS.value) if PAIRS.value else None
    record = measure(
        e,
        corpus,
        synthetic,
        workdir,
        real=real,
        pairs=pairs,
        judge=judge,
        tokenizer=tokenizer,
    )
    print(markdown(record))


if __name__ == "__main__":
    cli.run(main, needs=("config", "input", "corpus", "workdir"))
