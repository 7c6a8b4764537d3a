"""Turns a corpus into a token store, training the tokenizer first if the config names none.

    python -m sbp_jax.tokenize --config=configs/laptop.py --input=my_texts/ --output=stores/mine

The same command resumes an interrupted run and does nothing for a finished one. The store carries
its tokenizer, so OUTPUT is all that `config.data.input` needs to name afterwards.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import contextlib
import dataclasses
import logging
from collections.abc import Iterator

from absl import flags
from etils import epath

from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Corpus, input_folder, open_corpus, read_documents, refuse_inside
from sbp_jax.data.tokenizer import load_tokenizer, train_tokenizer
from sbp_jax.data.tokens import TokenStore, refuse_other_inputs, sole_writer
from sbp_jax.data.write_tokens import write_tokens

INPUT = flags.DEFINE_string("input", None, "What to tokenize, as data.input, which is the default.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of the store.")
SAMPLE_CHARACTERS = 1 << 28  # of text, from which a tokenizer is learnt
log = logging.getLogger(__name__)


def main() -> None:
    experiment = cli.experiment()
    store = prepare_store(INPUT.value or experiment.data.input, OUTPUT.value, experiment)
    log.info(
        "%s: %s documents, %s tokens",
        store.path,
        f"{store.num_documents:,}",
        f"{store.num_tokens:,}",
    )


def prepare_store(
    spec: str,
    output: epath.PathLike,
    experiment: Experiment,
    tokenizer: str | None = None,
    held_out: float | None = None,
) -> TokenStore:
    """The store of what `spec` names, made at `output` unless it is there or `spec` is one itself.

    `tokenizer` and `held_out` default to the config's; nothing is held out when there is an
    eval.input. The store's tokenizer is in its folder `tokenizer`.
    """
    if folder := input_folder(spec):
        if files.manifest_kind(folder) == "tokens":
            return TokenStore(folder)
        refuse_inside(spec, output)
    data, output = experiment.data, epath.Path(output)
    corpus = open_corpus(spec, experiment)
    own, named = output / "tokenizer", tokenizer or data.tokenizer
    if held_out is None:
        held_out = 0.0 if experiment.eval.input else data.held_out
    with contextlib.nullcontext() if files.has_manifest(output) else sole_writer(output):
        finished = files.has_manifest(output)
        if not named:
            _train_tokenizer(corpus, own, experiment)
        elif not finished:
            load_tokenizer(named).save(own)
        write_tokens(
            corpus,
            named if named and finished else str(own),
            output,
            seed=experiment.seed,
            held_out=held_out,
            workers=data.workers,
            on_error=data.on_error,
        )
    return TokenStore(output)


def _train_tokenizer(corpus: Corpus, folder: epath.Path, experiment: Experiment) -> None:
    data = experiment.data
    inputs = {
        "corpus_fingerprint": corpus.fingerprint,
        "vocab_size": experiment.model.vocab_size,
        "tokenizer_kind": data.tokenizer_kind,
        "seed": experiment.seed,
    }
    if files.has_manifest(folder):
        refuse_other_inputs(folder.parent, files.read_manifest(folder), inputs)
        return
    log.info("tokenizer: learning %d pieces from %s", experiment.model.vocab_size, corpus.name)
    train_tokenizer(
        _sample(corpus, data.on_error),
        experiment.model.vocab_size,
        folder,
        kind=data.tokenizer_kind,
        seed=experiment.seed,
    )
    files.write_manifest(folder, {"kind": "tokenizer", **inputs})


def _sample(corpus: Corpus, on_error: str) -> Iterator[str]:
    """The beginning of every shard, so that a large corpus is not read to its end for this."""
    share = SAMPLE_CHARACTERS / max(1, len(corpus.shards))
    for shard in corpus.shards:
        taken = 0
        for document in read_documents(dataclasses.replace(corpus, shards=[shard]), on_error):
            yield document.text
            taken += len(document.text)
            if taken >= share:
                break


if __name__ == "__main__":
    cli.run(main, needs=("config", "output"))
