"""A sandbox that opens another for each program, somewhere else: on Slurm, on Ray, in Docker.

Between programs its files wait in a folder here; each program's sandbox begins with a copy of them,
and what it leaves in /work takes their place.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from research_env.sandbox import trees
from research_env.sandbox.paths import check_paths
from research_env.sandbox.protocol import (
    Ended,
    Executed,
    Limits,
    Resource,
    Sandbox,
    SandboxFactory,
    Unreadable,
)


class Program(NamedTuple):
    command: Sequence[str]
    limits: Limits
    environment: Mapping[str, str]


class Left(NamedTuple):
    """What is there after a program."""

    executed: Executed
    left_out: tuple[str, ...] = ()  # of /work, as `read_out` tells
    unreadable: str = ""  # why none of it could be read


def run_once(
    inner: SandboxFactory,
    resource: Resource,
    read_only: Mapping[str, Path],
    program: Program,
    work: Path,
    out: Path,
    opened: Callable[[Sandbox], None] = lambda sandbox: None,
) -> Left:
    """`program` on a copy of `work`, which is left in `out`."""
    with inner(resource, read_only) as sandbox:
        opened(sandbox)
        sandbox.copy_in(work, "/work")
        executed = sandbox.exec(program.command, program.limits, program.environment)
        try:
            return Left(executed, sandbox.read_out("/work", out, most_mb=1 << 20))
        except Unreadable as error:
            return Left(executed, unreadable=str(error))


class Staged:
    """A Sandbox; a subclass knows where `_run` happens."""

    def __init__(
        self, resource: Resource, read_only: Mapping[str, Path], under: Path | None = None
    ) -> None:
        check_paths(read_only)
        self.resource = resource
        self.read_only = {path: source.resolve() for path, source in read_only.items()}
        self._under = under
        self._one = threading.Lock()
        self._killing = threading.Lock()
        self._killed = False
        self._kill: Callable[[], None] = lambda: None
        self._left = Left(Executed(Ended.EXITED, 0, b"", b"", False, 0.0))

    def __enter__(self) -> "Staged":
        if self._under:
            self._under.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="sandbox-", dir=self._under))
        self.work.mkdir()
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def copy_in(self, source: Path, target: str) -> None:
        with _open(self.work) as work:
            trees.copy_in(source, work, target)

    def read_out(self, path: str, target: Path, most_mb: int = 1024) -> tuple[str, ...]:
        if self._left.unreadable:
            raise Unreadable(self._left.unreadable)
        with _open(self.work) as work:
            left_out = trees.read_out(work, path, target, most_mb << 20)
        top = "/".join(trees.parts_below_work(path))
        below = f"{top}/" if top else ""
        before = [name[len(below) :] for name in self._left.left_out if name.startswith(below)]
        return (*left_out, *before)

    def exec(
        self,
        command: Sequence[str],
        limits: Limits,
        environment: Mapping[str, str] | None = None,
    ) -> Executed:
        with self._one:
            if self._killed:
                return ended(Ended.KILLED, "killed before it began")
            shutil.rmtree(self.out, ignore_errors=True)
            self.out.mkdir()
            left = self._run(Program(tuple(command), limits, dict(environment or {})))
            if self._killed and left.executed.ended is Ended.INFRASTRUCTURE:
                return ended(Ended.KILLED, "killed")
            if left.executed.ended is not Ended.INFRASTRUCTURE and not left.unreadable:
                shutil.rmtree(self.work)
                os.rename(self.out, self.work)
            self._left = left
            return left.executed

    def kill(self) -> None:
        with self._killing:
            self._killed = True
            self._kill()

    @contextmanager
    def when_killed(self, end: Callable[[], None]) -> Iterator[None]:
        """Calls it at once where `kill` came first."""
        with self._killing:
            self._kill = end
            if self._killed:
                end()
        try:
            yield
        finally:
            with self._killing:
                self._kill = lambda: None

    def _run(self, program: Program) -> Left:
        """From `work` to `out`; whatever goes wrong outside of the program is INFRASTRUCTURE."""
        raise NotImplementedError


def ended(how: Ended, reason: str) -> Executed:
    """Without a program's answer."""
    return Executed(how, -9, b"", b"", False, 0.0, reason)


@contextmanager
def _open(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
