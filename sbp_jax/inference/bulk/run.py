"""Corpus in, requests by a function, corpus out, exactly once.

A task is named by a hash of all that its answer depends on, and its seed is a part of that name. So
whatever was killed or changed meanwhile, the same command asks only for what no journal holds, and
leaves the same bytes. One process works on one shard of the input, any number of them on one output
folder; requests stream into the engine across documents, parts and shards, so that it never drains.
Malformed rows of the input are counted in the manifest, whatever data.on_error is: an expensive job
does not stop for one.
"""

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

from sbp_jax.errors import UserError
from sbp_jax.inference.bulk.budget import Budget
from sbp_jax.inference.bulk.job import Job
from sbp_jax.inference.bulk.output import Output, local_folder
from sbp_jax.inference.bulk.worker import OpenEngine, Worker

POLL_S = 1.0
log = logging.getLogger(__name__)


def run(
    job: Job,
    output: Path | str,
    open_engine: OpenEngine,
    *,
    model: str = "",
    max_tokens: int | None = None,
    max_cost: float | None = None,
    retry_errors: bool = False,
) -> dict[str, Any]:
    """Writes the corpus unless it is there, together with whoever else is at it, and returns its
    manifest. `BudgetSpent` says that the limits, which count all that was ever spent in the folder,
    end it before; with them, it works alone. Where the engine's fingerprint is known (`model`), it
    is opened only if there is something to ask. `retry_errors` asks again what was answered with
    an error; the later answer counts.
    """
    folder = local_folder(output)
    with contextlib.closing(Worker(job, folder, open_engine, model, retry_errors)) as worker:
        if manifest := already_finished(job, worker.output, retry_errors):
            return manifest
        budget = Budget(max_tokens, max_cost)
        with worker.output.joined(budget.limited, retry_errors):
            if budget.limited:
                budget.count(worker.output.answers())
            waited = False
            while True:
                worker.work(job.corpus.shards, budget)
                if budget.exhausted:
                    raise budget.spent(worker.progress.done)
                if all(worker.output.finished(shard) for shard in job.corpus.shards):
                    break
                if not waited:
                    log.info("the last shards are other processes': waiting for them")
                waited = True
                time.sleep(POLL_S)
            return finish(job, worker.output)


def already_finished(job: Job, output: Output, retry_errors: bool) -> dict[str, Any] | None:
    """The manifest of a job that has nothing left to ask."""
    manifest = output.manifest()
    if not manifest or (retry_errors and manifest["errors"]):
        return None
    log.info("%s: finished already, nothing to do%s", output.folder, _about_errors(manifest))
    return _with_texts(job, manifest)


def finish(job: Job, output: Output) -> dict[str, Any]:
    manifest = _with_texts(job, output.write_manifest(job.corpus))
    log.info(
        "%s: %s texts, %s tokens, %s errors, cost %.2f%s",
        output.folder,
        *(f"{manifest[name]:,}" for name in ("rows", "tokens", "errors")),
        manifest["cost"],
        _about_errors(manifest),
    )
    return manifest


def _about_errors(manifest: dict[str, Any]) -> str:
    if not manifest["errors"]:
        return ""
    first = manifest["error_examples"][0]["error"]
    return f"; the first error: {first}; --retry_errors asks again for what failed"


def _with_texts(job: Job, manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest, unless it is of nothing."""
    answers = sum(manifest["finish_reasons"].values())
    if not answers:
        reasons = "; ".join(manifest["bad_row_examples"])
        raise UserError(f"{job.corpus.name}: nothing to ask for in it{reasons and ': ' + reasons}")
    if answers == manifest["errors"]:
        raise UserError(
            f"{job.corpus.name}: each of {answers:,} requests failed, the first with: "
            f"{manifest['error_examples'][0]['error']}; --retry_errors asks them again"
        )
    return manifest
