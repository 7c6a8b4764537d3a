"""The divisible part of pairing on a Ray cluster: reading documents, embedding them.

A task leaves one file, which is a function of its input. So one whose actor dies is done again, by
another, and nothing else need be remembered. The folder, and an input of files, lie on a disk that
all machines share.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from sbp_jax.errors import UserError
from sbp_jax.processes import REPORT_S

TRIES = 3  # of a task whose actors die
log = logging.getLogger(__name__)


class OnRay:
    """A `Run` for `find_neighbors`, on the cluster of RAY_ADDRESS or a local one, while the context
    lasts. 0 workers are as many as there is room for; one with a model takes `gpus`, if the cluster
    has any.
    """

    def __init__(self, workers: int = 0, gpus: int = 1):
        self._workers, self._gpus = workers, gpus

    def __enter__(self) -> "OnRay":
        try:
            import ray
        except ImportError as error:
            raise UserError('--ray needs: pip install "sbp_jax[ray]"') from error
        self._ray, self._begun = ray, not ray.is_initialized()
        if self._begun and "RAY_ADDRESS" in os.environ:
            ray.init(logging_level=logging.WARNING)
        elif self._begun:
            ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._begun:
            self._ray.shutdown()

    def __call__(
        self,
        opened: Callable[[], Callable[[Any], object]],
        tasks: Sequence[Any],
        what: str,
        by_model: bool = False,
    ) -> None:
        ray, room = self._ray, self._ray.cluster_resources()
        gpus = self._gpus if by_model and room.get("GPU") else 0
        fitting = int(room["GPU"] // gpus if gpus else room.get("CPU", 1))
        if gpus and not fitting:
            raise UserError(f"a model takes {gpus} GPUs; the Ray cluster has {room['GPU']:g}")
        actor = ray.remote(
            num_cpus=0 if gpus else 1, num_gpus=gpus, max_restarts=-1, max_task_retries=TRIES - 1
        )(_Actor)
        number = min(self._workers or max(1, fitting), len(tasks))
        actors = [actor.remote(opened) for _ in range(number)]
        try:
            self._work(actors, tasks, what)
        finally:  # or Ray keeps them until garbage is collected
            for one in actors:
                ray.kill(one)

    def _work(self, actors: list[Any], tasks: Sequence[Any], what: str) -> None:
        free, left = list(actors), deque(tasks)
        running: dict[Any, Any] = {}
        start = last = time.monotonic()
        while left or running:
            while free and left:
                one = free.pop()
                running[one.do.remote(left.popleft())] = one
            for reference in self._ray.wait(list(running), timeout=REPORT_S)[0]:
                free.append(running.pop(reference))
                self._refuse_failure(reference)
            done, now = len(tasks) - len(left) - len(running), time.monotonic()
            if done and now - last > REPORT_S:
                last = now
                seconds = (now - start) / done * (len(tasks) - done)
                log.info("%s %d of %d, about %.0f s left", what, done, len(tasks), seconds)

    def _refuse_failure(self, reference: Any) -> None:
        errors = self._ray.exceptions
        try:
            self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from None
            raise
        except errors.RayActorError as error:
            raise UserError(
                f"an actor of Ray died {TRIES} times over the same task; what is done is kept: "
                f"resume with the same command ({error})"
            ) from error


class _Actor:
    """Opens what it holds at its first task, for Ray hides what is raised in __init__."""

    def __init__(self, opened: Callable[[], Callable[[Any], object]]):
        self._opened = opened
        self._function: Callable[[Any], object] | None = None

    def do(self, task: Any) -> None:
        if self._function is None:
            self._function = self._opened()
        self._function(task)
