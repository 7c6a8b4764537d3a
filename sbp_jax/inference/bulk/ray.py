"""A bulk job on a Ray cluster: actors hold the engines, each shard of the input is one task.

A task may be done again at any time: it goes on from its journal. So an actor that dies, with its
engine or its machine, is replaced, and nothing else need be remembered. OUTPUT, and an input of
files, lie on a disk that all machines share.
"""

import contextlib
import logging
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from sbp_jax.errors import UserError
from sbp_jax.inference.bulk.budget import Budget
from sbp_jax.inference.bulk.job import Job
from sbp_jax.inference.bulk.output import Output, local_folder
from sbp_jax.inference.bulk.run import POLL_S, already_finished, finish
from sbp_jax.inference.bulk.worker import DEATHS, OpenEngine, Worker

EVERY_S = 5.0
log = logging.getLogger(__name__)


def run_on_ray(
    job: Job,
    output: Path | str,
    open_engine: OpenEngine,
    *,
    model: str = "",
    workers: int = 0,
    gpus: int = 0,
    max_tokens: int | None = None,
    max_cost: float | None = None,
    retry_errors: bool = False,
) -> dict[str, Any]:
    """As `bulk.run`, with `workers` engines of `gpus` each; 0 workers is as many as there is room
    for. What a limit leaves is divided by the shards that are not finished: each keeps to its part.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError('--ray needs: pip install "sbp_jax[ray]"') from error
    folder, begun = local_folder(output), not ray.is_initialized()
    if begun and "RAY_ADDRESS" in os.environ:
        ray.init(logging_level=logging.WARNING)
    elif begun:
        ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING)
    try:
        room = ray.cluster_resources()
        if gpus and room.get("GPU", 0) < gpus:
            raise UserError(
                f"an engine takes {gpus} GPUs; the Ray cluster has {room.get('GPU', 0):g}"
            )
        fitting = int(room["GPU"] // gpus if gpus else room.get("CPU", 1))
        number = min(workers or max(1, fitting), len(job.corpus.shards))
        arguments = ray.put(job), str(folder), open_engine, model, retry_errors
        actor_class = ray.remote(num_cpus=0 if gpus else 1, num_gpus=gpus)(_Actor)
        start = lambda: actor_class.remote(*arguments)  # noqa: E731
        with contextlib.closing(_Driver(ray, job, folder, start)) as driver:
            return driver.run(number, model, Budget(max_tokens, max_cost), retry_errors)
    finally:
        if begun:
            ray.shutdown()


class _Actor:
    """Opens its engine at its first call, for Ray hides what is raised in __init__."""

    def __init__(
        self, job: Job, folder: str, open_engine: OpenEngine, model: str, retry_errors: bool
    ):
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        logging.getLogger("sbp_jax").setLevel(logging.INFO)
        self._arguments = job, Path(folder), open_engine, model, retry_errors
        self._worker: Worker | None = None

    def model(self) -> str:
        return self._open().model

    def finish(self, index: int, tokens: int | None, cost: float | None) -> Budget:
        """Finishes a shard on which no more than this is ever to be spent."""
        worker = self._open()
        shard, budget = worker.job.corpus.shards[index], Budget(tokens, cost)
        budget.count(worker.output.answers(shard))
        while not budget.exhausted and not worker.output.finished(shard):
            worker.work([shard], budget)
            if not budget.exhausted and not worker.output.finished(shard):
                time.sleep(POLL_S)  # another process has it: perhaps it is dying
        return budget

    def _open(self) -> Worker:
        if self._worker is None:
            self._worker = Worker(*self._arguments)
        return self._worker


class _Driver:
    """Gives each shard to an actor that is free."""

    def __init__(self, ray: Any, job: Job, folder: Path, start: Any):
        self._ray, self._job, self._folder, self._new_actor = ray, job, folder, start
        self._started: list[Any] = []
        self._deaths = 0
        self._written = -1  # bytes of all journals when an actor died last

    def run(self, number: int, model: str, budget: Budget, retry_errors: bool) -> dict[str, Any]:
        actors = [self._start() for _ in range(number)]
        while not model:
            model = self._get(actors[0].model.remote())
            if not model:
                actors[0] = self._start()
        output = Output(self._folder, self._job.record(model))
        if manifest := already_finished(self._job, output, retry_errors):
            return manifest
        with output.joined(budget.limited, retry_errors):
            shards = self._job.corpus.shards
            left = deque(i for i, shard in enumerate(shards) if not output.finished(shard))
            limits = self._limits(output, list(left), budget)
            total, last, exhausted = len(left), time.monotonic(), False
            running: dict[Any, tuple[Any, int]] = {}
            while left or running:
                while actors and left:
                    actor, index = actors.pop(), left.popleft()
                    running[actor.finish.remote(index, *limits[index])] = actor, index
                for done in self._ray.wait(list(running), timeout=EVERY_S)[0]:
                    actor, index = running.pop(done)
                    result = self._get(done)
                    if result is None:
                        actor = self._start()
                        left.appendleft(index)
                    else:
                        exhausted |= result.exhausted
                    actors.append(actor)
                if time.monotonic() - last > EVERY_S:
                    last = time.monotonic()
                    log.info("%d of %d shards", total - len(left) - len(running), total)
            if exhausted:
                done = budget.count(output.answers())
                raise budget.spent(done)
            assert all(output.finished(shard) for shard in shards)
            return finish(self._job, output)

    def close(self) -> None:
        """Or Ray keeps the actors until garbage is collected, and the next job waits for room."""
        for actor in self._started:
            actor.__ray_terminate__.remote()

    def _start(self) -> Any:
        self._started.append(self._new_actor())
        return self._started[-1]

    def _limits(
        self, output: Output, shards: list[int], budget: Budget
    ) -> dict[int, tuple[int | None, float | None]]:
        """For each shard, what may be spent on it, with what was spent before."""
        limits: dict[int, tuple[int | None, float | None]] = dict.fromkeys(shards, (None, None))
        if not budget.limited:
            return limits
        now = Budget()
        now.count(output.answers())
        for index in shards:
            own = Budget()
            own.count(output.answers(self._job.corpus.shards[index]))
            tokens, cost = budget.max_tokens, budget.max_cost
            limits[index] = (
                None if tokens is None else own.tokens + (tokens - now.tokens) // len(shards),
                None if cost is None else own.cost + (cost - now.cost) / len(shards),
            )
        return limits

    def _get(self, reference: Any) -> Any:
        """None when the actor died over it, which may happen now and then."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from None
            raise
        except errors.RayActorError as error:
            written = sum(p.stat().st_size for p in self._folder.glob("journal/*.journal"))
            self._deaths = self._deaths + 1 if written == self._written else 1
            self._written = written
            if self._deaths == DEATHS:
                raise UserError(
                    f"an actor of Ray died {DEATHS} times without an answer between; what was "
                    f"answered before is safe: resume with the same command ({error})"
                ) from error
            log.warning("an actor of Ray died; starting another")
            return None
