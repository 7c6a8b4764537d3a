"""Ray: each program is a task with the cores and GPUs it needs, in which another sandbox opens.

Ray only finds the place and brings the files there and back; what confines the program is the inner
sandbox. What is given read-only lies on a disk that all machines share.
"""

import io
import logging
import os
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from research_env.sandbox import factory
from research_env.sandbox.protocol import Ended, Resource, Sandbox
from research_env.sandbox.staged import Left, Program, Staged, ended, run_once
from sbp_jax.errors import UserError


def connect() -> Any:
    """Ray, on the cluster of RAY_ADDRESS or a local one; left running, for others may use it."""
    try:
        import ray
    except ImportError as error:
        raise UserError('the ray sandbox needs: pip install "sbp_jax[ray]"') from error
    if not ray.is_initialized():
        if address := os.environ.get("RAY_ADDRESS"):
            try:
                ray.init(logging_level=logging.WARNING)
            except ConnectionError as error:
                raise UserError(f"RAY_ADDRESS={address}: no Ray cluster answers there") from error
        else:
            ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING)
    return ray


class Ray(Staged):
    def __init__(
        self,
        resource: Resource,
        read_only: Mapping[str, Path],
        inner: str = "bubblewrap",
    ) -> None:
        super().__init__(resource, read_only)
        self._ray, self._inner = connect(), inner
        room = self._ray.cluster_resources()
        for what, asked in (("CPU", resource.cores), ("GPU", resource.gpus)):
            if asked > room.get(what, 0):
                raise UserError(
                    f"the Ray cluster has {room.get(what, 0):g} of {what}; {asked} are asked for"
                )

    def _run(self, program: Program) -> Left:
        ray, errors = self._ray, self._ray.exceptions
        task = ray.remote(num_cpus=self.resource.cores, num_gpus=self.resource.gpus, max_retries=0)(
            _task
        )
        memory = (program.limits.memory_mb + program.limits.disk_mb) << 20
        reference = task.options(memory=memory).remote(
            self._inner, self.resource, self.read_only, program, _packed(self.work)
        )
        try:
            with self.when_killed(lambda: ray.cancel(reference)):
                left, files = ray.get(reference)
        except errors.TaskCancelledError:  # by us, or else by someone who is not the program
            return Left(ended(Ended.INFRASTRUCTURE, "Ray: the task was cancelled"))
        except errors.RayError as error:
            lines = str(error).strip().splitlines()
            return Left(ended(Ended.INFRASTRUCTURE, f"Ray: {lines[-1] if lines else error!r}"))
        _unpack(files, self.out)
        return left


def _task(
    inner: str,
    resource: Resource,
    read_only: Mapping[str, Path],
    program: Program,
    files: bytes,
) -> tuple[Left, bytes]:
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
        work, out = Path(folder) / "work", Path(folder) / "out"
        out.mkdir()
        _unpack(files, work)
        return _interruptible(
            lambda opened: run_once(factory(inner), resource, read_only, program, work, out, opened)
        ), _packed(out)


def _interruptible(do: Callable[[Callable[[Sandbox], None]], Left]) -> Left:
    """In a thread: Ray cancels a task by an interrupt, which Python hears between two steps only,
    and not while it waits for an answer.
    """
    sandboxes: list[Sandbox] = []
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(do, sandboxes.append)
        try:
            while not wait([doing], timeout=0.1).done:
                pass
        except KeyboardInterrupt:
            for sandbox in sandboxes:
                sandbox.kill()
            raise
        try:
            return doing.result()
        except (UserError, OSError) as error:
            return Left(ended(Ended.INFRASTRUCTURE, f"{os.uname().nodename}: {error}"))


def _packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(folder, ".")
    return buffer.getvalue()


def _unpack(files: bytes, folder: Path) -> None:
    """Of `_packed`, from a folder whose links stay inside."""
    with tarfile.open(fileobj=io.BytesIO(files)) as tar:
        tar.extractall(folder, filter="data")
