"""How good a synthetic corpus is, beside the library that it was made from.

    python -m entigraph.quality --config=configs/laptop.py --synthetic=W/entigraph \\
        --source=my_texts/ --questions=questions.jsonl --output=W/quality/entigraph
    ... --engine=api --config.api.url=http://localhost:8000/v1 --config.api.model=JUDGE

Writes results.json and overlap.png, and prints the table; measures.py says what each figure is.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

from absl import flags

import sbp_jax.data.tokens  # noqa: F401  here, for Ctrl-C breaks the import of its TensorStore
from entigraph.evaluation.questions import read_questions
from entigraph.generation.generator import counter, estimated
from entigraph.generation.measures import measure, read_synthetic, table
from entigraph.library import read_library
from sbp_jax.data.tokenizer import load_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference.bulk.output import local_folder
from sbp_jax.inference.engine import EngineOpener

SYNTHETIC = flags.DEFINE_string("synthetic", None, "Corpus of entigraph.generate.")
SOURCE = flags.DEFINE_string("source", None, "The library that it was made from.")
QUESTIONS = flags.DEFINE_string("questions", None, "Question files, in QuALITY's form.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of the results.")
ENGINE = flags.DEFINE_enum("engine", None, ["jax", "vllm", "api"], "What judges, if anything.")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run or checkpoint of the judge: jax, vllm.")


def main() -> None:
    e = cli.experiment()
    output = local_folder(OUTPUT.value or "")
    if CHECKPOINT.value and ENGINE.value not in ("jax", "vllm"):
        raise UserError("--checkpoint is of a judge: --engine=jax or --engine=vllm")
    source = read_library(SOURCE.value or "", e)
    count = counter(load_tokenizer(e.data.tokenizer)) if e.data.tokenizer else estimated
    texts = read_synthetic(SYNTHETIC.value or "", e, source, count)
    questions = None
    if QUESTIONS.value:
        articles = read_questions(QUESTIONS.value)
        questions = [question.text for article in articles for question in article.questions]
    judge = None
    if ENGINE.value:
        judge = EngineOpener(ENGINE.value, e, CHECKPOINT.value, str(output / "model"))
    print(table(measure(e, texts, source, output, questions, judge)))


if __name__ == "__main__":
    cli.run(main, needs=("config", "synthetic", "source", "output"))
