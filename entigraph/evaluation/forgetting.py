"""What a model still knows of everything else: its loss on general text, and the suite of
`sbp_jax.evaluate`. And the first property that is asked of continued pretraining, new knowledge
without loss of the old, as two numbers of one comparison.
"""

import importlib.util
import itertools
import logging
import math
from pathlib import Path
from typing import Any

from sbp_jax.config import Experiment
from sbp_jax.data.corpus import open_corpus, read_documents
from sbp_jax.errors import UserError
from sbp_jax.evaluation.comparison import Cell, Comparison
from sbp_jax.evaluation.perplexity import perplexity
from sbp_jax.inference.sampler import Sampler

log = logging.getLogger(__name__)

GENERAL = "general_text"
# Where knowledge shows, the most telling first.
KNOWLEDGE = ("closed_book", "likelihood_per_byte", "likelihood")


def general_text(
    sampler: Sampler, spec: str, experiment: Experiment, folder: Path, limit: int | None
) -> dict[str, Any]:
    """The part of results.json; its files are there when this returns."""
    documents = read_documents(open_corpus(spec, experiment), experiment.data.on_error)
    return perplexity(sampler, itertools.islice(documents, limit)).write(folder, GENERAL)


def suite(
    sampler: Sampler,
    tasks: str,
    tasks_dir: str,
    folder: Path,
    identity: dict[str, Any],
    limit: int | None,
) -> dict[str, Any]:
    if not importlib.util.find_spec("lm_eval"):
        raise UserError('--suite needs lm-eval: pip install "sbp_jax[eval]"')
    from sbp_jax.evaluation.harness import HarnessModel
    from sbp_jax.evaluation.run import run
    from sbp_jax.evaluation.tasks import plan

    planned = plan(tasks, tasks_dir, log.info)
    return run(planned, HarnessModel(sampler), folder, identity=identity, limit=limit)


def new_without_loss(comparison: Comparison) -> dict[str, Any] | None:
    """Of the second model against the first: accuracy gained on the articles, and by how much the
    perplexity of general text rose, each with its interval. It holds if the first is above zero
    and the second is not. None where one of them was not measured.
    """
    cells = {(row.task, row.metric): row.cells[1] for row in comparison.rows if not row.clean}
    gains = (cells.get((task, "accuracy")) for task in KNOWLEDGE)
    gained, lost = next((c for c in gains if _paired(c)), None), cells.get((GENERAL, "loss"))
    if gained is None or lost is None or not _paired(lost):
        return None
    name = next(task for task in KNOWLEDGE if cells.get((task, "accuracy")) is gained)
    rise = [math.expm1(x) for x in (lost.delta, *lost.interval)]
    return {
        "knowledge": name,
        "accuracy_gained": {"value": gained.delta, "interval": list(gained.interval)},
        "perplexity_rise": {"value": rise[0], "interval": rise[1:]},
        "holds": bool(gained.interval[0] > 0 >= rise[1]),
    }


def _paired(cell: Cell | None) -> bool:
    return cell is not None and math.isfinite(cell.delta) and math.isfinite(cell.interval[0])
