"""Pairs of related documents of a corpus, for a synthesizer to be tuned on.

    python -m sbp_jax.pair --config=configs/laptop.py --input=my_texts/ --output=pairs/mine
    python -m sbp_jax.pair --config=configs/laptop.py --input=my_texts/ --output=pairs/own \\
        --checkpoint=runs/mine --config.pairing.embedder=self

The same command goes on after any interruption and does nothing for what is finished. OUTPUT holds
Parquet files with the columns d1, d2, score, id1, id2, the best pairs first, and a manifest with
what each filter took. With --neighbors in one place, other thresholds, and
--config.pairing.random_pairs, cost no second search. --ray reads and embeds on a cluster.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import contextlib
import logging

from absl import flags

import sbp_jax.data.tokens  # noqa: F401  here, for Ctrl-C breaks the import of its TensorStore
from sbp_jax.data.corpus import open_corpus, refuse_inside
from sbp_jax.errors import UserError
from sbp_jax.inference.bulk.output import local_folder

INPUT = flags.DEFINE_string("input", None, "Documents, as data.input, which is the default.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of the pairs.")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run or checkpoint, for the embedder self.")
NEIGHBORS = flags.DEFINE_string(
    "neighbors", None, "Folder of documents, vectors and neighbours; default OUTPUT/neighbors."
)
RAY = flags.DEFINE_bool("ray", False, "On the Ray cluster of RAY_ADDRESS, or a local one.")
WORKERS = flags.DEFINE_integer(
    "workers", 0, "Processes on Ray; 0 is as many as there is room for.", lower_bound=0
)
log = logging.getLogger(__name__)


def main() -> None:
    experiment = cli.experiment()
    if CHECKPOINT.value and experiment.pairing.embedder != "self":
        raise UserError(
            f"--checkpoint is of no use to config.pairing.embedder={experiment.pairing.embedder}"
        )
    if WORKERS.value and not RAY.value:
        raise UserError("--workers needs --ray; without it, config.data.workers says how many")
    spec = INPUT.value or experiment.data.input
    output = local_folder(OUTPUT.value or "")
    neighbors = local_folder(NEIGHBORS.value or output / "neighbors")
    for place in (output, neighbors):
        refuse_inside(spec, place)
    corpus = open_corpus(spec, experiment)
    with cli.ending_at_interrupt():  # JAX is imported here, and not for --help
        from sbp_jax.pairing.embed import find_neighbors, here
        from sbp_jax.pairing.pairs import write_pairs
        from sbp_jax.pairing.ray import OnRay
    where = contextlib.nullcontext(here(experiment.data.workers))
    with OnRay(WORKERS.value, experiment.engine.tensor) if RAY.value else where as run:
        find_neighbors(corpus, experiment, neighbors, CHECKPOINT.value, run)
    manifest = write_pairs(neighbors, experiment, output)
    counts = ", ".join(f"{name} {count:,}" for name, count in manifest["counts"].items())
    log.info("%s: %s", output, counts)


if __name__ == "__main__":
    cli.run(main, needs=("config", "output"))
