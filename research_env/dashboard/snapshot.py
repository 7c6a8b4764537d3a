"""The bank at one moment, without what is long: the rows of the table, and the facts of the search.

Read with a connection of our own, which stays open: `PRAGMA data_version` on it tells, for next to
nothing, whether another process has written since.
"""

import contextlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from research_env import bank
from research_env.dashboard import plain
from research_env.outcome import State
from research_env.researcher.interface import BASELINE
from sbp_jax.errors import UserError
from sbp_jax.reporting.wording import number

OPEN = (bank.QUEUED, bank.RUNNING)
STATES = (*OPEN, *(state.value for state in State))
ALL_AGAIN_SECONDS = 60.0
TITLE, REASON, NAME = 160, 240, 60  # letters of a row's texts


class Row(NamedTuple):
    """An idea in the table."""

    id: int
    title: str
    state: str
    score: float | None
    cost: float
    tokens: int
    seconds: float
    strategy: str
    kind: str
    author: str
    parents: tuple[int, ...]
    created: float | None
    finished: float | None
    promoted: bool
    reason: str


class Retest(NamedTuple):
    """The runs of an idea on one split."""

    idea: int
    split: str
    scores: tuple[float, ...]
    states: tuple[str, ...]


class Snapshot(NamedTuple):
    rows: list[Row]  # by id; the baseline is 0
    retests: list[Retest]  # of the baseline and of promoted ideas
    meta: dict[str, Any]
    now: float
    running: bool | None  # a search, on this machine; None where that is not known

    @property
    def maximize(self) -> bool:
        return self.meta.get("direction", "maximize") != "minimize"

    @property
    def ideas(self) -> list[Row]:
        return [row for row in self.rows if row.kind != BASELINE]

    def better(self, a: float, b: float) -> bool:
        return a > b if self.maximize else a < b

    def best(self) -> Row | None:
        """Of the ideas that ran, on the search split, as the referee's choice is made there."""
        ran = [row for row in self.ideas if row.score is not None]
        sign = -1 if self.maximize else 1
        return min(ran, key=lambda row: (sign * (row.score or 0.0), row.id), default=None)

    def scores(self, idea: int, split: str) -> tuple[float, ...]:
        found = (r.scores for r in self.retests if (r.idea, r.split) == (idea, split))
        return next(found, ())


def path(workdir: Path) -> Path:
    """The bank of a workdir."""
    found = workdir / bank.NAME
    if not found.is_file():
        raise UserError(f"{workdir}: no {bank.NAME} in it: python -m research_env.search makes it")
    return found


def is_running(workdir: Path) -> bool | None:
    """Whether the process is there that last began to search. Its lock is not tried: a search that
    begins at that moment would find it taken.
    """
    try:
        process = int((workdir / bank.LOCK).read_text())
        os.kill(process, 0)
    except (OSError, ValueError) as error:
        return False if isinstance(error, ProcessLookupError) else None
    return True


class Reader:
    """Open on one bank, read-only; of one thread at a time."""

    def __init__(self, file: Path):
        self.file = file
        self._rows: dict[int, Row] = {}
        self._phase: dict[str, Any] | None = None
        self._all_again, self._last_run = 0.0, 0
        uri = f"{file.absolute().as_uri()}?mode=ro"
        try:
            self._db = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30
            )
            self._db.execute("SELECT id FROM ideas LIMIT 1").fetchall()
        except sqlite3.DatabaseError as error:
            raise UserError(f"{file}: not a bank of ideas ({error}); name another") from error

    def close(self) -> None:
        self._db.close()

    def version(self) -> int:
        """Another number after every change by another process."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def snapshot(self) -> Snapshot:
        with self._one_moment():
            meta = {key: _json(value) for key, value in self._db.execute(_META)}
            self._read_rows({key: meta.get(key) for key in _PHASE})
            retests = self._retests()
        rows = [self._rows[id] for id in sorted(self._rows)]
        return Snapshot(rows, retests, meta, time.time(), is_running(self.file.parent))

    def _read_rows(self, phase: dict[str, Any]) -> None:
        """Those that can have changed, of ten thousand: new ones, those that were or are open, and
        those with new runs, as after `rerun`. All of them where the search enters a phase, which
        promotes some, and now and then.
        """
        now = time.monotonic()
        if phase != self._phase or now >= self._all_again:
            self._rows, self._phase, self._all_again = {}, phase, now + ALL_AGAIN_SECONDS
            found = self._db.execute(_ROWS, (TITLE, REASON, NAME)).fetchall()
        else:
            ids = {row.id for row in self._rows.values() if row.state in OPEN}
            last = max(self._rows, default=-1)
            ids |= {id for (id,) in self._db.execute(_CHANGED, (last, self._last_run, *OPEN))}
            found = [
                row
                for id in ids
                for row in self._db.execute(f"{_ROWS} WHERE id = ?4", (TITLE, REASON, NAME, id))
            ]
        self._rows |= {row[0]: _row(row) for row in found}
        (self._last_run,) = self._db.execute("SELECT coalesce(max(id), 0) FROM runs").fetchone()

    def _retests(self) -> list[Retest]:
        """The last attempt of every seed."""
        last: dict[tuple[int, str], dict[int, tuple[str, float | None]]] = {}
        ideas = [row.id for row in self._rows.values() if row.promoted or row.kind == BASELINE]
        for idea in sorted(ideas):
            for split, seed, state, score in self._db.execute(_RETESTS, (idea,)):
                seeds = last.setdefault((idea, plain.line(split, NAME)), {})
                seeds[seed] = (str(state), number(score))
        return [
            Retest(
                idea,
                split,
                tuple(score for state, score in seeds.values() if score is not None),
                tuple(state for state, _ in seeds.values()),
            )
            for (idea, split), seeds in last.items()
        ]

    @contextlib.contextmanager
    def _one_moment(self) -> Iterator[None]:
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")


# What is long stays in the bank. The lengths are cut in SQLite: one idea's title may be a book.
_ROWS = """
SELECT id, substr(title, 1, 5 * ?1), state, score, cost, tokens, seconds, substr(strategy, 1, ?3),
  kind, substr(author, 1, ?3), parents, created, finished, promoted, substr(reason, 1, 5 * ?2)
FROM ideas"""
_CHANGED = """
SELECT id FROM ideas WHERE id > ?1 UNION SELECT idea FROM runs WHERE id > ?2
UNION SELECT id FROM ideas WHERE state IN (?3, ?4)"""
_PHASE = ("phase", "finalists", "verdict")
_META = "SELECT key, value FROM meta ORDER BY key"
_RETESTS = """
SELECT split, seed, state, score FROM runs WHERE idea = ? ORDER BY attempt, id"""


def _row(found: tuple[Any, ...]) -> Row:
    id, title, state, score, cost, tokens, seconds, strategy, kind, author = found[:10]
    parents, created, finished, promoted, reason = found[10:]
    return Row(
        id,
        plain.line(title, TITLE),
        state if state in STATES else plain.line(state, NAME),
        number(score),
        number(cost) or 0.0,
        int(number(tokens) or 0),
        number(seconds) or 0.0,
        plain.line(strategy, NAME),
        plain.line(kind, NAME),
        plain.line(author, NAME),
        () if parents in (None, "[]") else _numbers(_json(parents)),
        number(created),
        number(finished),
        bool(promoted),
        plain.line(reason, REASON),
    )


def _numbers(found: Any) -> tuple[int, ...]:
    return tuple(x for x in found if isinstance(x, int)) if isinstance(found, list) else ()


def _json(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except ValueError:  # by another version of the search; the page shows what it can
        return None


def mean_and_error(scores: tuple[float, ...]) -> tuple[float | None, float | None]:
    """And the standard error of the mean, of two at least."""
    if not scores:
        return None, None
    mean = math.fsum(scores) / len(scores)
    if len(scores) < 2:
        return mean, None
    variance = math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1)
    return mean, math.sqrt(variance / len(scores))
