"""Runs from the bank's queue in worker processes, as many as there is room for, without barriers.

Nothing here waits for a group of runs: a worker's end wakes the loop, and the next run takes its
place. Workers outlive this process. Started again, it finds in the bank the runs that were going
on: a lock that is still held is a worker to wait for, an outcome is collected, and a worker that
ended without one is counted as a failure of ours.
"""

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

from research_env.bank import FINAL, RUNNING, SEARCH, SELECTION, Bank, Run
from research_env.outcome import Outcome, State
from research_env.running import worker
from research_env.running.inventory import Inventory, Share
from research_env.running.spawner import Spawner
from research_env.sandbox.protocol import Resource
from sbp_jax import files

RUNS = "runs"
_GRACE_SECONDS = 10.0  # between asking a worker to end and making it


class Task(NamedTuple):
    """What all runs of a search have in common."""

    env: str
    size: str
    sandbox: str
    unsafe: bool
    resource: Resource
    memory_mb: int
    overdue_seconds: float  # the harness itself hangs if a worker takes longer


class _Active(NamedTuple):
    run: Run
    pidfd: int
    share: Share
    until: float


class Scheduler:
    def __init__(self, bank: Bank, workdir: Path, task: Task, inventory: Inventory):
        self._bank, self._task, self._inventory = bank, task, inventory
        self.slots = inventory.require(task.resource, task.memory_mb)
        self.runs_dir = workdir / RUNS
        self.runs_dir.mkdir(parents=True, exist_ok=True)
        self._spawner = Spawner(
            task.env, task.size, task.sandbox, task.unsafe, workdir / "spawner.log"
        )
        self._active: dict[int, _Active] = {}
        self._selector = selectors.DefaultSelector()
        self._woken, self._bell = socket.socketpair()
        for end in (self._woken, self._bell):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._stopping = False
        self.busy_seconds = 0.0  # of all slots together, for the utilisation

    def close(self) -> None:
        """Leaves the workers alone."""
        self._spawner.close()
        for active in self._active.values():
            os.close(active.pidfd)
        self._selector.close()
        for end in (self._woken, self._bell):
            end.close()

    @property
    def bell(self) -> int:
        """A file descriptor that wakes `wait` when written to: for threads and signals."""
        return self._bell.fileno()

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # it is ringing already; it is over
            self._bell.send(b"\0")

    @property
    def running(self) -> list[Run]:
        return [active.run for active in self._active.values()]

    @property
    def free(self) -> int:
        return max(0, self.slots - len(self._active))

    def adopt(self) -> list[Run]:
        """Takes over what an earlier process left; returns the runs that have meanwhile ended."""
        ended = []
        for run in self._bank.open_runs(RUNNING):
            pidfd = open_worker(self._folder(run))
            if pidfd is not None:
                share = self._share_of(run)
                self._watch(run, pidfd, share)
                self._inventory.hold(share)
                continue
            began = bool((self._folder(run) / worker.LOCK).read_bytes())
            if (found := self._collect(run, began)) is not None:
                ended.append(found)
        return ended

    def fill(self, splits: tuple[str, ...] = (SEARCH, SELECTION, FINAL)) -> int:
        """Starts runs of these splits while there are any and there is room; returns how many."""
        started = 0
        while True:
            share = self._inventory.take(self._task.resource, self._task.memory_mb)
            if share is None:
                return started
            run = self._bank.claim(splits)
            if run is None:
                self._inventory.give_back(share)
                return started
            self._start(run, share)
            started += 1

    def wait(self, seconds: float | None = None) -> list[Run]:
        """Until a run ends, the bell rings or the time is over; the runs that have ended."""
        for run_id in [key for key, active in self._active.items() if active.until < time.time()]:
            self._signal(self._active[run_id], signal.SIGKILL)
        due = [active.until - time.time() for active in self._active.values()]
        soonest = max(0.0, min([*due, float("inf") if seconds is None else seconds]))
        events = self._selector.select(None if soonest == float("inf") else soonest)
        ended = []
        for key, _ in events:
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    while self._woken.recv(4096):
                        pass
                continue
            active = self._release(key.data)
            if (found := self._collect(active.run, began=True)) is not None:
                ended.append(found)
        return ended

    def stop(self) -> list[Run]:
        """Ends all workers. Their runs go back into the queue, but for those that just ended."""
        self._stopping = True
        for active in self._active.values():
            self._signal(active, signal.SIGTERM)
        until, ended = time.monotonic() + _GRACE_SECONDS, []
        while self._active and time.monotonic() < until:
            ended += self.wait(until - time.monotonic())
        for active in self._active.values():
            self._signal(active, signal.SIGKILL)
        while self._active:
            ended += self.wait()
        return ended

    def _start(self, run: Run, share: Share) -> None:
        folder = self._folder(run)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        job = {
            "run": run.id,
            "idea": run.idea,
            "split": run.split,
            "seed": run.seed,
            "attempt": run.attempt,
            "diff": self._bank.idea(run.idea).diff,
            "smoke": run.split == SEARCH,
            "cores": share.cores,
            "gpus": share.gpus,
            "memory_mb": share.memory_mb,
        }
        (folder / worker.JOB).write_text(json.dumps(job))
        # Locked from here on: whoever comes after us sees a worker, or that there is none.
        lock = files.try_lock(folder / worker.LOCK)
        assert lock is not None, folder
        with lock:
            pidfd = self._spawner.start(folder, lock)
        self._watch(run, pidfd, share)

    def _watch(self, run: Run, pidfd: int, share: Share) -> None:
        started = run.started or time.time()
        until = started + self._task.overdue_seconds
        self._active[run.id] = _Active(run, pidfd, share, until)
        self._selector.register(pidfd, selectors.EVENT_READ, run.id)

    def _release(self, run_id: int) -> _Active:
        active = self._active.pop(run_id)
        self._selector.unregister(active.pidfd)
        os.close(active.pidfd)
        self._inventory.give_back(active.share)
        self.busy_seconds += time.time() - (active.run.started or time.time())
        return active

    def _collect(self, run: Run, began: bool) -> Run | None:
        """None if the run is to be started again, as if it had not been."""
        folder = self._folder(run)
        outcome = worker.outcome_of(folder)
        if outcome is None:
            if not began or self._stopping or (folder / worker.STOPPED).exists():
                self._bank.requeue(run.id)
                return None
            outcome = Outcome(
                State.INFRASTRUCTURE, reason="its worker was killed, or outlived every limit"
            )
        log = f"{RUNS}/{run.id}/{worker.LOG}"
        return self._bank.finish(run.id, outcome, log if (folder / worker.LOG).exists() else "")

    def _folder(self, run: Run) -> Path:
        return self.runs_dir / str(run.id)

    def _share_of(self, run: Run) -> Share:
        job: dict[str, Any] = json.loads((self._folder(run) / worker.JOB).read_text())
        return Share(tuple(job["cores"]), tuple(job["gpus"]), job["memory_mb"])

    @staticmethod
    def _signal(active: _Active, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(active.pidfd, number)


def open_worker(folder: Path) -> int | None:
    """A pidfd of the living worker of this folder, if there is one."""
    path = folder / worker.LOCK
    while not _is_free(path):
        if not (number := path.read_bytes()):
            time.sleep(0.001)  # it has just been forked, and will write its number at once
            continue
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(int(number))
            if not _is_free(path):  # so the number is still its own, and was when we used it
                return pidfd
            os.close(pidfd)
    return None


def _is_free(path: Path) -> bool:
    lock = files.try_lock(path)
    if lock is not None:
        lock.close()
    return lock is not None
