"""One program, watched from its start to the death of its last process. Part of the holder."""

import base64
import contextlib
import os
import select
import signal
import subprocess
import time
from typing import Any

from research_env.sandbox.output import Capped
from research_env.sandbox.watch import Usage

POLL = 0.01  # seconds between two looks at a program that is small; a look may cost a twentieth
START = 120.0  # seconds until a program must have started, on a machine that is busy


class Watched:
    """One program from its start to the death of its last process."""

    def __init__(
        self, holder: Any, process: subprocess.Popen[bytes], status: int, order: dict[str, Any]
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
        while data := os.read(self.status, 4096):
            self.started = self.started or self.begun
            self.told = (self.told + data)[-100:]
        for descriptor in self.streams:
            while self.read(descriptor):
                pass
        for descriptor in (process_end, self.status):
            os.close(descriptor)
        return self._result(code, seconds)

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

    def exit_code(self) -> int:
        """The last word of process 1. A candidate may have written there too, but not after it."""
        try:
            return int(self.told.split()[-1])
        except (IndexError, ValueError):
            return -signal.SIGKILL  # process 1 was killed: it says "started" and nothing more

    def _result(self, code: int, seconds: float) -> dict[str, Any]:
        stdout, stderr = self.streams.values()
        exit_code = self.exit_code()
        ended, reason = self.verdict or ("exited", "")
        if not self.verdict:
            if not self.started:
                ended = "infrastructure"
                reason = stderr.value().decode(errors="replace").strip() or f"exit code {code}"
            elif exit_code == -signal.SIGXCPU:
                ended, reason = "timed_out", f"more than {self.order['cpu_seconds']:g} s CPU time"
            elif exit_code == -signal.SIGKILL and _oom_kills() > self.oom_kills:
                ended = "infrastructure"
                reason = "the machine ran out of memory, within the limit of this program"
        return result(
            ended,
            exit_code,
            reason,
            seconds,
            stdout=base64.b64encode(stdout.value()).decode(),
            stderr=base64.b64encode(stderr.value()).decode(),
            truncated=stdout.truncated or stderr.truncated,
        )


def result(
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


def _oom_kills() -> int:
    with contextlib.suppress(OSError), open("/proc/vmstat") as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    return 0
