"""One run: the job in its folder is judged, and what came out is written there in one piece.

The folder W/runs/ID: job.json (what to do), lock (held while the worker lives, with its process id
in it), worker.log, the referee's logs, and at the end outcome.json, or `stopped` if it was told to.
"""

import dataclasses
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from research_env.env import load
from research_env.outcome import Outcome, State
from sbp_jax import files

JOB, LOCK, OUTCOME, STOPPED, LOG = "job.json", "lock", "outcome.json", "stopped", "log.txt"
JOURNAL = "begun.jsonl"  # beside the folders of runs
INLINE = "inline"  # the sandbox's name where there is none: ideas are read, never run

Judge = Callable[[Mapping[str, Any], Path], Outcome]


class _Stop(BaseException):
    """Told by SIGTERM to end; not an Exception, so that it passes through the referee."""


def prepared(env: str, size: str, sandbox: str, unsafe: bool) -> Judge:
    """What all workers of a search share, once, in the process that they are forked from."""
    environment = load(env, size)
    if sandbox == INLINE:
        from research_env.running import inline

        return inline.judge_of(environment)
    from research_env import referee
    from research_env.sandbox import factory

    sandboxes = factory(sandbox, unsafe=unsafe)

    def judge(job: Mapping[str, Any], folder: Path) -> Outcome:
        diff, split, seed = job["diff"], job["split"], job["seed"]
        if job["smoke"] and environment.smoke_pays:
            smoke = folder / "smoke"
            tried = referee.judge(environment, diff, split, seed, sandboxes, smoke, smoke=True)
            if tried.state is not State.OK:
                return dataclasses.replace(tried, reason=f"smoke run: {tried.reason}")
        return referee.judge(environment, diff, split, seed, sandboxes, folder)

    return judge


def work(folder: Path, lock: int, judge: Judge) -> NoReturn:
    """In a process of its own, which it ends."""
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _stop)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        log = os.open(folder / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.close(log)
        job = json.loads((folder / JOB).read_text())
        _begun(folder.parent / JOURNAL, job)
        if job["cores"]:
            os.sched_setaffinity(0, job["cores"])
        if job["gpus"]:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(job["gpus"])
        outcome = judge(job, folder)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is over: better told than stopped
        _tell(folder, outcome)
    except _Stop:
        (folder / STOPPED).touch()
    except Exception as error:  # the harness's own fault, never the idea's
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        _tell(folder, Outcome(State.INFRASTRUCTURE, reason=reason))
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(0)


def _begun(journal: Path, job: Mapping[str, Any]) -> None:
    """One line for every start of a worker, whatever became of it."""
    line = {key: job[key] for key in ("run", "idea", "split", "seed", "attempt")}
    line |= {"pid": os.getpid(), "time": time.time()}
    with open(journal, "a") as file:  # so short a line is written in one piece
        file.write(json.dumps(line) + "\n")


def outcome_of(folder: Path) -> Outcome | None:
    """None if the worker did not come so far."""
    try:
        record = json.loads((folder / OUTCOME).read_text())
        return Outcome(**{**record, "state": State(record["state"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        return Outcome(State.INFRASTRUCTURE, reason=f"{OUTCOME} is damaged: {error}")


def _tell(folder: Path, outcome: Outcome) -> None:
    (folder / LOG).write_text(outcome.log, errors="replace")
    record = {
        "state": outcome.state.value,
        "score": outcome.score,
        "seconds": outcome.seconds,
        "reason": outcome.reason,
        "metrics": dict(outcome.metrics),
    }
    files.write_json(folder / OUTCOME, record)


def _stop(number: int, frame: object) -> None:
    raise _Stop
