"""Holds a sandbox open, runs programs in it one by one, and watches over each.

It runs apart from the harness, only on the standard library: in bubblewrap's outer shell as the
parent of each inner one, or as a plain process. It owns the disk on which the candidate writes (a
tmpfs of limited size) and ends when the harness does, however that dies; its process namespace, and
so everything in it, ends with it. One JSON object a line from the harness, one a line back.
It begins with a connected socket and a pidfd of the harness, or with the path of a socket through
which the pidfd comes.
"""

import base64
import contextlib
import ctypes
import json
import marshal
import os
import select
import signal
import socket
import subprocess
import time
from typing import Any

from research_env.sandbox.output import Capped
from research_env.sandbox.watch import Usage, descendants, processes

POLL = 0.01  # seconds between two looks at a program that is small; a look may cost a twentieth
START = 30.0  # seconds until a program must have started, on a machine that is busy
MS_NOSUID, MS_NODEV, MS_REMOUNT = 2, 4, 32
PR_SET_CHILD_SUBREAPER = 36


class Holder:
    def __init__(self, control: socket.socket, harness: int) -> None:
        self.control, self.harness = control, harness
        self._received = b""
        self.orders: list[dict[str, Any]] = []
        self.killed = False
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.receive()
        self.plan = self.orders.pop(0)

    # -- the harness ---------------------------------------------------------------------------

    def receive(self) -> None:
        """Waits for more from the harness; ends with it."""
        control = self.control.fileno()
        ready, _, _ = select.select([control, self.harness], [], [])
        data = b""
        if control in ready:
            data = self.control.recv(1 << 16)
        if not data:
            self.end()
            os._exit(0)
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "kill" in order:
                self.killed = True
            else:
                self.orders.append(order)
        if not lines:
            self.receive()

    def send(self, answer: dict[str, Any], *descriptors: int) -> None:
        data = json.dumps(answer).encode() + b"\n"
        sent = socket.send_fds(self.control, [data], descriptors) if descriptors else 0
        self.control.sendall(data[sent:])

    def serve(self) -> None:
        self.open()
        while True:
            while not self.orders:
                self.receive()
            self.send(self.execute(self.orders.pop(0)))

    # -- what differs between a namespace of our own and none -------------------------------------

    def mount(self, kind: str, target: str, flags: int, options: str) -> None:
        arguments = (word.encode() for word in (kind, target, kind))
        if self.libc.mount(*arguments, flags, options.encode()):
            raise OSError(ctypes.get_errno(), f"mount {kind} {target}")

    def open(self) -> None:
        if disk := self.plan["disk"]:
            self.mount("tmpfs", disk, MS_NOSUID | MS_NODEV, "mode=755")
            for name, mode in (("work", 0o755), ("tmp", 0o1777), ("shm", 0o1777)):
                os.mkdir(f"{disk}/{name}")
                os.chmod(f"{disk}/{name}", mode)
            if (user := self.plan["user"]) is not None:
                os.chown(f"{disk}/work", user, user)
                # One that bubblewrap's covers do not hide, or the kernel refuses the inner one.
                with contextlib.suppress(OSError):
                    self.mount("proc", self.plan["proc"], 0, "")
        if not self.plan["own"]:
            self.libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.send({"ready": True}, os.open(self.plan["work"], os.O_RDONLY | os.O_DIRECTORY))

    def limit_disk(self, most: int) -> None:
        """What is there already does not count."""
        if disk := self.plan["disk"]:
            now = os.statvfs(disk)
            size = (now.f_blocks - now.f_bfree) * now.f_frsize + most
            files = now.f_files - now.f_ffree + 4096 + (most >> 13)
            self.mount("tmpfs", disk, MS_REMOUNT, f"size={size},nr_inodes={files}")

    def pids(self) -> list[int]:
        if self.plan["own"]:
            return [pid for pid in processes() if pid not in (1, os.getpid())]
        return descendants(os.getpid())

    def end(self) -> None:
        """Kills everything but this process, and waits until it is gone."""
        while pids := self.pids():
            if self.plan["own"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)  # all of the namespace in one go, none can fork out
            else:
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.001)

    def prepare(self, cpus: list[int]) -> None:
        """In the new process, before bubblewrap."""
        # Should the machine's memory end, the kernel shall take this first.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
        if cpus:
            os.sched_setaffinity(0, cpus)
        if (user := self.plan["user"]) is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)

    # -- one program -----------------------------------------------------------------------------

    def execute(self, order: dict[str, Any]) -> dict[str, Any]:
        if self.killed:
            return _result("killed", reason="killed before it began")
        try:
            self.limit_disk(order["disk"])
            filter_, inside = None, {**order["inside"], "filter": b""}
            arguments = list(self.plan["before"])
            if arguments and order["filter"]:
                filter_ = _file(base64.b64decode(order["filter"]))
                arguments += ["--seccomp", str(filter_)]
            elif order["filter"]:
                inside["filter"] = base64.b64decode(order["filter"])
            specification, status = _file(inside), os.pipe()
            arguments += [*self.plan["inside"], str(specification), str(status[1])]
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[fd for fd in (specification, status[1], filter_) if fd is not None],
                preexec_fn=lambda: self.prepare(order["cpus"]),  # noqa: PLW1509
                env={},
            )
            for descriptor in (specification, status[1], filter_):
                if descriptor is not None:
                    os.close(descriptor)
        except (OSError, subprocess.SubprocessError) as error:
            return _result("infrastructure", reason=f"cannot start: {error}")
        return Watched(self, process, status[0], order).to_the_end()


class Watched:
    """One program from its start to the death of its last process."""

    def __init__(
        self, holder: Holder, process: subprocess.Popen[bytes], status: int, order: dict[str, Any]
    ) -> None:
        self.holder, self.process, self.order = holder, process, order
        self.usage = Usage()
        assert process.stdout and process.stderr
        self.streams = {
            process.stdout.fileno(): Capped(order["output"]),
            process.stderr.fileno(): Capped(order["output"]),
        }
        self.status, self.told = status, b""
        self.begun = time.monotonic()
        self.started = 0.0
        self.verdict: tuple[str, str] | None = None
        self.oom_kills = _oom_kills()

    def to_the_end(self) -> dict[str, Any]:
        process_end = os.pidfd_open(self.process.pid)
        poll = select.poll()
        others = (self.status, process_end, self.holder.control.fileno(), self.holder.harness)
        for descriptor in (*self.streams, *others):
            poll.register(descriptor, select.POLLIN)
        pause, looked = POLL, 0.0
        while True:
            ready = {fd for fd, _ in poll.poll(pause * 1000)}
            for descriptor in ready & self.streams.keys():
                if not self.read(descriptor):
                    poll.unregister(descriptor)
            if self.status in ready:
                if data := os.read(self.status, 4096):
                    self.told += data
                    self.started = self.started or time.monotonic()
                else:
                    poll.unregister(self.status)
            if self.holder.control.fileno() in ready or self.holder.harness in ready:
                self.holder.receive()
            if process_end in ready:
                self.process.wait()
                break
            if (now := time.monotonic()) - looked >= pause:
                self.verdict = self.judge()
                looked = time.monotonic()
                pause = min(max(POLL, 20 * (looked - now)), 0.25)
            if self.verdict:
                break
        # Not when it tells its exit code, which a candidate might tell early.
        seconds = time.monotonic() - (self.started or self.begun)
        self.holder.end()
        code = self.process.wait()
        self.told += b"".join(iter(lambda: os.read(self.status, 4096), b""))
        for descriptor in self.streams:
            while self.read(descriptor):
                pass
        for descriptor in (process_end, self.status):
            os.close(descriptor)
        return self.result(code, seconds)

    def read(self, descriptor: int) -> bool:
        data = os.read(descriptor, 1 << 18)
        self.streams[descriptor].write(data)
        return bool(data)

    def judge(self) -> tuple[str, str] | None:
        """Whether it is over, and why."""
        order, usage = self.order, self.usage
        if self.holder.killed:
            return "killed", "killed"
        now = time.monotonic()
        if not self.started:
            late = now - self.begun > START
            return ("infrastructure", f"not started after {START:.0f} s") if late else None
        if now - self.started > order["wall_seconds"]:
            return "timed_out", f"more than {order['wall_seconds']:g} s"
        pids = self.holder.pids()
        usage.look(pids)
        if usage.cpu_seconds > order["cpu_seconds"]:
            return "timed_out", f"more than {order['cpu_seconds']:g} s of CPU time"
        if memory := usage.memory_above(order["memory"], pids):
            return "out_of_memory", f"{memory >> 20} MB, {order['memory'] >> 20} allowed"
        if usage.threads > order["processes"] + 8:  # where the kernel's own limit does not hold
            return "exited", f"more than {order['processes']} processes"
        return None

    def result(self, code: int, seconds: float) -> dict[str, Any]:
        stdout, stderr = self.streams.values()
        words = self.told.split()
        exit_code = int(words[1]) if len(words) > 1 else -signal.SIGKILL
        ended, reason = self.verdict or ("exited", "")
        if not self.verdict:
            if not words:
                ended = "infrastructure"
                reason = stderr.value().decode(errors="replace").strip() or f"exit code {code}"
            elif exit_code == -signal.SIGXCPU:
                ended, reason = "timed_out", f"more than {self.order['cpu_seconds']:g} s CPU time"
            elif exit_code == -signal.SIGKILL and _oom_kills() > self.oom_kills:
                ended = "infrastructure"
                reason = "the machine ran out of memory, within the limit of this program"
        return _result(
            ended,
            exit_code,
            reason,
            seconds,
            stdout=base64.b64encode(stdout.value()).decode(),
            stderr=base64.b64encode(stderr.value()).decode(),
            truncated=stdout.truncated or stderr.truncated,
        )


def _result(
    ended: str, exit_code: int = -9, reason: str = "", seconds: float = 0.0, **more: Any
) -> dict[str, Any]:
    nothing = {"stdout": "", "stderr": "", "truncated": False}
    return {
        **nothing,
        "ended": ended,
        "exit_code": exit_code,
        "seconds": seconds,
        "reason": reason,
        **more,
    }


def _file(data: Any) -> int:
    """Of bytes, or of an object for inside.py; inherited by the next process."""
    descriptor = os.memfd_create("given", 0)
    os.write(descriptor, data if isinstance(data, bytes) else marshal.dumps(data))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _oom_kills() -> int:
    with contextlib.suppress(OSError), open("/proc/vmstat") as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    return 0


def main(control: int | str, harness: int = -1) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the harness's to answer
    if isinstance(control, int):
        connection = socket.socket(fileno=control)
    else:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(control)
        harness = socket.recv_fds(connection, 1, 1)[1][0]
    Holder(connection, harness).serve()
