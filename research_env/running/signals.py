"""How a search is spoken to while it runs: by signals, which wake its loop."""

import contextlib
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from research_env.bank import LOCK
from research_env.running.scheduler import Scheduler
from sbp_jax import files

END = (signal.SIGINT, signal.SIGTERM)  # at once; runs go back into the queue
DRAIN = signal.SIGUSR2  # after the runs that are going on
LOOK = signal.SIGUSR1  # at the bank: another command has written to it


class Signals:
    """In force inside `with`; what was asked for is in `end` and `drain`."""

    def __init__(self, scheduler: Scheduler):
        self._scheduler = scheduler
        self.end = self.drain = False

    def __enter__(self) -> "Signals":
        self._before: dict[signal.Signals, Any] = {
            number: signal.signal(number, self._heard) for number in (*END, DRAIN, LOOK)
        }
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.end |= number in END
        self.drain |= number == DRAIN
        self._scheduler.ring()


def searcher(workdir: Path) -> int | None:
    """A pidfd of the process that searches there, if one does."""
    path = workdir / LOCK
    for _ in range(2):  # once more if it ended, or another began, between two looks
        if not path.exists() or (lock := files.try_lock(path)) is not None:
            if path.exists() and lock is not None:
                lock.close()
            return None
        with contextlib.suppress(ProcessLookupError, ValueError):
            return os.pidfd_open(int(path.read_bytes()))
    return None
