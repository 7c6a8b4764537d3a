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

from research_env.sandbox import idmap
from research_env.sandbox.watch import descendants, processes
from research_env.sandbox.watched import Watched, result

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
                for path in self.plan["given"]:
                    with contextlib.suppress(OSError):  # it stays root's, as read by others
                        idmap.give(path, user)
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
            return result("killed", reason="killed before it began")
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
            return result("infrastructure", reason=f"cannot start: {error}")
        return Watched(self, process, status[0], order).to_the_end()


def _file(data: Any) -> int:
    """Of bytes, or of an object for inside.py; inherited by the next process."""
    descriptor = os.memfd_create("given", 0)
    os.write(descriptor, data if isinstance(data, bytes) else marshal.dumps(data))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def main(control: int | str, harness: int = -1) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the harness's to answer
    if isinstance(control, int):
        connection = socket.socket(fileno=control)
    else:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(control)
        harness = socket.recv_fds(connection, 1, 1)[1][0]
    Holder(connection, harness).serve()
