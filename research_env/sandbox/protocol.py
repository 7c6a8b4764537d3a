"""A place in which a stranger's program runs, seen from outside: copy in, run, read out, kill.

Whatever the backend, the program sees its files in `/work`, which it may write, and what was given
to it read-only; nothing else of this machine but the system and Python. It has no network, no
environment but the one given, and no process outlives `exec`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol


@dataclass(frozen=True)
class Limits:
    wall_seconds: float = 60.0
    cpu_seconds: float = 0.0  # 0: as many as the wall clock and the cores allow
    memory_mb: int = 2048
    processes: int = 64  # and threads
    file_mb: int = 256  # of one file
    disk_mb: int = 1024  # of all that it writes
    output_kb: int = 256  # of each stream; head and tail are kept


@dataclass(frozen=True)
class Resource:
    """What a run is given; asked of an inventory, of Slurm or of Ray."""

    cores: int = 1
    gpus: int = 0
    gpu_ids: tuple[int, ...] = ()  # which, where somebody assigned them; otherwise the first


class Ended(StrEnum):
    EXITED = "exited"  # by itself, with an exit code, or by a signal of its own
    TIMED_OUT = "timed_out"  # of wall clock or CPU time
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"  # by `kill`
    INFRASTRUCTURE = "infrastructure"  # the sandbox itself failed


class Executed(NamedTuple):
    ended: Ended
    exit_code: int  # negative: the signal
    stdout: bytes
    stderr: bytes
    truncated: bool
    seconds: float
    reason: str = ""  # where it did not simply exit


class Unreadable(Exception):
    """What `read_out` was asked for is not there, leads out of /work, or is too large."""


class Sandbox(Protocol):
    """Opened with what it may read (`read_only`: path inside -> path here); closed by `with`."""

    def __enter__(self) -> "Sandbox": ...

    def __exit__(self, *error: object) -> None: ...

    def copy_in(self, source: Path, target: str) -> None:
        """A file or folder to a path below /work, or a folder's contents to /work itself."""
        ...

    def exec(
        self,
        command: Sequence[str],
        limits: Limits,
        environment: Mapping[str, str] | None = None,
    ) -> Executed:
        """In /work. When it returns, every process that it started is gone."""
        ...

    def read_out(self, path: str, target: Path, most_mb: int = 1024) -> tuple[str, ...]:
        """A file or folder below /work to `target`, which is made; `Unreadable` if it cannot.

        Links that stay inside the folder are copied as links; files with several names become
        several files. Returns what was left out: other links, devices, sockets, pipes.
        """
        ...

    def kill(self) -> None:
        """From another thread: `exec` returns at once with KILLED, and so does any later one."""
        ...


class SandboxFactory(Protocol):
    def __call__(self, resource: Resource, read_only: Mapping[str, Path]) -> Sandbox: ...
