"""All about one idea, read when somebody asks: its texts, its change, its runs and their logs."""

import os
import stat
from pathlib import Path
from typing import Any

from research_env.bank import Bank, Run
from research_env.dashboard import plain
from research_env.dashboard.figures import finite

TEXT, DIFF, ERROR = 40_000, 400_000, 20_000  # letters of each that reach a page
LOG = 200_000  # bytes of a log's head and tail together


def idea(bank: Bank, number: int) -> dict[str, Any]:
    """Texts are plain, but not escaped: the page puts them in as texts."""
    found = bank.idea(number)
    return {
        "id": found.id,
        "title": plain.excerpt(plain.plain(found.title), TEXT),
        "text": plain.excerpt(plain.plain(found.text), TEXT),
        "diff": plain.excerpt(plain.plain(found.diff), DIFF),
        "reason": plain.excerpt(plain.plain(found.reason), TEXT),
        "parents": list(found.parents),
        "niche": plain.line(found.niche),
        "group": plain.line(found.group_id),
        "hash": plain.line(found.hash, 64),
        "context": bool(found.context),
        "repairs": [
            {
                "attempt": attempt,
                "error": plain.excerpt(plain.plain(error), ERROR),
                "diff": plain.excerpt(plain.plain(diff), DIFF),
            }
            for attempt, error, diff in bank.repairs(number)
        ],
        "runs": [_run(run) for run in bank.runs(number)],
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "split": plain.line(run.split, 40),
        "seed": run.seed,
        "attempt": run.attempt,
        "state": plain.line(run.state, 40),
        "score": finite(run.score),
        "seconds": finite(run.seconds),
        "reason": plain.line(run.reason, 2000),
        "metrics": {
            plain.line(name, 60): finite(value)
            for name, value in list(run.metrics.items())[:40]
            if isinstance(value, int | float)
        },
        "log": bool(run.log),
    }


def context(bank: Bank, number: int) -> str:
    """What the idea's author was shown."""
    return plain.excerpt(plain.plain(bank.context(bank.idea(number).context)), DIFF)


def log(bank: Bank, workdir: Path, number: int, most: int = LOG) -> str:
    """Of a run; empty where there is none."""
    return log_of(bank.run(number), workdir, most)


def log_of(run: Run, workdir: Path, most: int = LOG) -> str:
    """Only a file of the workdir's runs, whatever the bank says: no link leads out of it."""
    if not run.log:
        return ""
    runs, place = (workdir / "runs").resolve(), workdir / run.log
    try:
        if not place.parent.resolve().is_relative_to(runs):
            return f"It is said to be outside of {runs.name}/, where no log of a run is."
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError):  # it was deleted, or is a link
        return ""
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return ""
        head = os.pread(descriptor, most if found.st_size <= most else most // 2, 0)
        tail = os.pread(descriptor, most // 2, max(0, found.st_size - most // 2))
    finally:
        os.close(descriptor)
    if found.st_size <= most:
        return plain.plain(head.decode("utf-8", "replace"))
    left_out = f"\n… {found.st_size - most:,} bytes are left out …\n"
    return plain.plain(head.decode("utf-8", "replace") + left_out + tail.decode("utf-8", "replace"))
