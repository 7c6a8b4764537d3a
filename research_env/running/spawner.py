"""Starts workers in milliseconds: a small process that has imported what they need, and forks.

    python -m research_env.running.spawner FD ENV SIZE SANDBOX UNSAFE

A worker belongs to nobody: it has a session of its own, holds the lock of its run's folder, and
lives on when the search is killed. It is single-threaded, since only then is a fork safe; the
search, whose researcher may use threads, is not.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

from sbp_jax.errors import UserError

_REQUEST, _REPLY = 4096, 256


class Spawner:
    """`log` is for what goes wrong before a worker has a log of its own."""

    def __init__(self, env: str, size: str, sandbox: str, unsafe: bool, log: Path):
        if not hasattr(os, "pidfd_open"):
            raise UserError("this system has no pidfd_open: searches need Linux 5.3 or newer")
        self._command = (env, size, sandbox, str(int(unsafe)))
        self._log = log
        self._process, self._socket = self._open()

    def start(self, folder: Path, lock: IO[bytes]) -> int:
        """A file descriptor that becomes readable when the worker of this folder has ended. The
        worker takes over `lock`, which may be closed here.
        """
        try:
            return self._ask(folder, lock)
        except OSError:
            self.close()  # it was killed; the workers that it has started were not
            self._process, self._socket = self._open()
        try:
            return self._ask(folder, lock)
        except OSError as error:
            raise UserError(f"no worker can be started ({error}); see {self._log}") from error

    def close(self) -> None:
        self._socket.close()
        self._process.wait()

    def _open(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its, open(self._log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, str(its.fileno()), *self._command],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the search, which then decides
            )
        return process, ours

    def _ask(self, folder: Path, lock: IO[bytes]) -> int:
        request = os.fsencode(folder)
        assert len(request) < _REQUEST, folder
        socket.send_fds(self._socket, [request], [lock.fileno()])
        reply, descriptors, _, _ = socket.recv_fds(self._socket, _REPLY, 1, socket.MSG_CMSG_CLOEXEC)
        if not descriptors:
            raise ConnectionError(reply.decode() or f"the spawner ended; see {self._log}")
        return descriptors[0]


def main(descriptor: int, env: str, size: str, sandbox: str, unsafe: str) -> None:
    from research_env.running import worker

    connection = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    judge = worker.prepared(env, size, sandbox, unsafe == "1")
    while True:
        request, descriptors, _, _ = socket.recv_fds(
            connection, _REQUEST, 1, socket.MSG_CMSG_CLOEXEC
        )
        if not request:  # the search has ended, however
            return
        child = os.fork()
        if child == 0:
            connection.close()
            worker.work(Path(os.fsdecode(request)), descriptors[0], judge)
        pidfd = os.pidfd_open(child)  # before it is reaped, so that it cannot be another's
        socket.send_fds(connection, [b"started"], [pidfd])
        for done in (pidfd, *descriptors):
            os.close(done)
        _reap()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(int(sys.argv[1]), *sys.argv[2:])
