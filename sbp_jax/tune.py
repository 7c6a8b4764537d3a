"""Tunes a pretrained checkpoint on pairs, into a synthesizer of documents like a given one.

    python -m sbp_jax.tune --config=configs/laptop.py --pairs=pairs/mine --checkpoint=runs/mine \\
        --workdir=runs/synthesizer

The same command resumes an interrupted run and does nothing for a finished one. WORKDIR is a run
of the trainer; its synthesizer.json names the checkpoint with the lowest loss on held-out pairs,
for --checkpoint of sbp_jax.synthesize. Exit codes: 0 when it is there, 2 for a mistake, 130 after
Ctrl-C or SIGTERM, at which a checkpoint is saved.
"""

from sbp_jax import cli

if __name__ == "__main__":
    # Before the slow imports, which would be done twice.
    cli.use_huge_pages()
    cli.end_at_interrupt()

from absl import flags

from sbp_jax import files, parallel
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import open_corpus
from sbp_jax.errors import UserError
from sbp_jax.synthesis.examples import read_pairs_manifest
from sbp_jax.synthesis.tuning import tune
from sbp_jax.train import ALLOW_CHANGE, INIT_FROM, keep_compiled

PAIRS = flags.DEFINE_string("pairs", None, "Output of sbp_jax.pair.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Run or checkpoint whose weights are tuned, and whose tokenizer is used."
)


def main() -> None:
    experiment = cli.experiment()
    if INIT_FROM.value:
        raise UserError("--init_from: tuning begins with the weights of --checkpoint")
    pairs, checkpoint, workdir = (str(flag.value) for flag in (PAIRS, CHECKPOINT, cli.WORKDIR))
    refuse_other_corpus(experiment, pairs)
    parallel.start_processes()
    keep_compiled(files.absolute(workdir) / "compiled")
    tune(experiment, pairs, checkpoint, workdir, allow_change=ALLOW_CHANGE.value)


def refuse_other_corpus(experiment: Experiment, pairs: str) -> None:
    """Pairs of something else, or of what the corpus was before it changed."""
    manifest, spec = read_pairs_manifest(pairs), experiment.data.input
    if open_corpus(spec, experiment).fingerprint != manifest["corpus_fingerprint"]:
        raise UserError(
            f"{pairs}: pairs of {manifest['corpus']}, which config.data.input={spec} is not, or no "
            "longer as it was; name it with --config.data.input, or pair it anew"
        )


if __name__ == "__main__":
    cli.run(main, needs=("config", "pairs", "checkpoint", "workdir"))
