"""The harness's end of a holder: a sandbox whose disk and programs are in holder.py's hands."""

import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research_env.sandbox import trees
from research_env.sandbox.protocol import Ended, Executed, Limits
from research_env.sandbox.watch import descendants

SOURCES = Path(__file__).resolve().parent
MODULES = ("holder.py", "inside.py", "watched.py", "watch.py", "output.py", "idmap.py")
OPEN_FILES = 4096


@dataclass(frozen=True)
class Plan:
    """What a holder is told once."""

    outer: Sequence[str]  # what goes before Python's command line to start it
    python: str
    library: str  # where it finds `research_env.sandbox.holder`
    before: Sequence[str]  # goes before the candidate's command line, and `--seccomp FD` after it
    inside: Sequence[str]  # Python and the path of inside.py
    work: str  # as the holder sees it
    own: bool = True  # its process namespace: every other process in it is the candidate's
    disk: str = ""  # where the holder mounts the disk that it limits; empty: it does not
    proc: str = ""
    user: int | None = None  # whom candidates run as, where the holder may choose
    given: Sequence[str] = ()  # as the holder sees it; root's becomes the candidate's
    filter: bytes = b""
    environment: tuple[tuple[str, str], ...] = ()
    folder: str = "/work"


class Held:
    """A Sandbox over a holder."""

    def __init__(self, plan: Plan, cores: int) -> None:
        self._plan, self._cores = plan, cores
        self._one, self._sending = threading.Lock(), threading.Lock()
        self._killed = False

    def __enter__(self) -> "Held":
        self._process, self._control = self._begin()
        self._received = b""
        told = ("before", "inside", "work", "own", "disk", "proc", "user", "given")
        try:
            self._send({name: getattr(self._plan, name) for name in told})
            descriptors = socket.recv_fds(self._control, 4096, 1)[1]
        except OSError:
            descriptors = []
        if not descriptors:
            reason = self._last_words()
            self.__exit__()
            raise OSError(f"no sandbox: {reason}")
        self._work = descriptors[0]
        return self

    def _begin(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """The holder, and the connection to it."""
        plan = self._plan
        ours, theirs = socket.socketpair()
        harness = os.pidfd_open(os.getpid())
        with theirs:
            process = subprocess.Popen(
                [*plan.outer, *holder(plan, f"{theirs.fileno()}, {harness}")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(), harness),
                start_new_session=True,
                env={"PATH": os.defpath},
            )
        os.close(harness)
        return process, ours

    def __exit__(self, *error: object) -> None:
        self._control.close()  # at which the holder ends, and all in it
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # whatever hangs there, its namespace ends with it
            for pid in (*descendants(self._process.pid), self._process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
        assert self._process.stderr
        self._process.stderr.close()
        if hasattr(self, "_work"):
            os.close(self._work)

    def copy_in(self, source: Path, target: str) -> None:
        trees.copy_in(source, self._work, target, self._plan.user)

    def read_out(self, path: str, target: Path, most_mb: int = 1024) -> tuple[str, ...]:
        return trees.read_out(self._work, path, target, most_mb << 20)

    def kill(self) -> None:
        self._killed = True
        with suppress(OSError):  # it is closed, or has died
            self._send({"kill": True})

    def exec(
        self,
        command: Sequence[str],
        limits: Limits,
        environment: Mapping[str, str] | None = None,
    ) -> Executed:
        with self._one, _cpus(self._cores) as (cores, cpus):
            order = self._order(command, limits, environment or {}, cores, cpus)
            try:
                self._send(order)
                answer = self._receive()
            except (OSError, ValueError):
                words = "killed" if self._killed else f"its holder has died: {self._last_words()}"
                ended = Ended.KILLED if self._killed else Ended.INFRASTRUCTURE
                return Executed(ended, -9, b"", b"", False, 0.0, words)
        return Executed(
            Ended(answer["ended"]),
            answer["exit_code"],
            base64.b64decode(answer["stdout"]),
            base64.b64decode(answer["stderr"]),
            answer["truncated"],
            answer["seconds"],
            answer["reason"],
        )

    def _order(
        self,
        command: Sequence[str],
        limits: Limits,
        environment: Mapping[str, str],
        cores: int,
        cpus: list[int],
    ) -> dict[str, Any]:
        memory = limits.memory_mb << 20
        cpu_seconds = limits.cpu_seconds or limits.wall_seconds * cores + 1
        resources = {
            "CPU": int(cpu_seconds) + 2,  # of each process; the holder sees to the sum
            "FSIZE": limits.file_mb << 20,
            "NOFILE": OPEN_FILES,
            "NPROC": limits.processes + 1,  # and process 1
            "CORE": 0,
            "DATA": 2 * memory + (1 << 30),  # of each process, asked for or used
        }
        if not self._plan.disk:
            del resources["NPROC"]  # outside of a user namespace it counts all of this user's
        inside = {
            "command": list(command),
            "environment": {**dict(self._plan.environment), **environment},
            "limits": resources,
            "folder": self._plan.folder,
        }
        return {
            "inside": inside,
            "cpus": cpus,
            "filter": base64.b64encode(self._plan.filter).decode(),
            "wall_seconds": limits.wall_seconds,
            "cpu_seconds": cpu_seconds,
            "memory": memory,
            "processes": limits.processes,
            "disk": limits.disk_mb << 20,
            "output": limits.output_kb << 10,
        }

    def _send(self, message: Mapping[str, Any]) -> None:
        with self._sending:
            self._control.sendall(json.dumps(message).encode() + b"\n")

    def _receive(self) -> dict[str, Any]:
        while b"\n" not in self._received:
            data = self._control.recv(1 << 20)
            if not data:
                raise ValueError("end of file")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def _last_words(self) -> str:
        try:
            _, stderr = self._process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            return "it does not answer"
        lines = stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}"


def holder(plan: Plan, arguments: str) -> list[str]:
    start = f"import sys; sys.path.insert(0, {plan.library!r}); "
    start += f"from research_env.sandbox.holder import main; main({arguments})"
    return [plan.python, "-I", "-S", "-B", "-c", start]


_in_use: dict[int, int] = {}  # cores of this machine: by how many sandboxes of this process
_choosing = threading.Lock()


@contextmanager
def _cpus(cores: int) -> Iterator[tuple[int, list[int]]]:
    """How many there are for this one, and those least in use; all where it may have all."""
    ours = os.sched_getaffinity(0)
    if cores >= len(ours):
        yield len(ours), []
        return
    with _choosing:
        chosen = sorted(ours, key=lambda cpu: (_in_use.get(cpu, 0), random.random()))[:cores]
        for cpu in chosen:
            _in_use[cpu] = _in_use.get(cpu, 0) + 1
    try:
        yield cores, chosen
    finally:
        with _choosing:
            for cpu in chosen:
                _in_use[cpu] -= 1


def base_python() -> str:
    """The interpreter itself, not the link to it in a virtual environment."""
    return os.path.realpath(sys.executable)
