"""The bank of ideas, W/ideas.db: what was thought of, run, and found; and the queue of runs.

    python -m research_env.bank runs/first
    python -m research_env.bank runs/first --best=5
    python -m research_env.bank runs/first --state=crashed --json

One process writes (the search), any number read. A row is written before what it announces is done:
after kill -9 the rows in state `running` are exactly the runs to look after.
"""

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from research_env.outcome import Outcome, State
from research_env.researcher.interface import BASELINE, Proposal
from research_env.rows import (
    FINAL,
    QUEUED,
    RUNNING,
    SCHEMA,
    SEARCH,
    SELECTION,
    Duplicate,
    Idea,
    Run,
    content_hash,
    storable,
)
from sbp_jax.errors import UserError

NAME = "ideas.db"
LOCK = "search.lock"  # beside it; the search that holds it writes its process in it
_WAIT_SECONDS = 30  # for another writer, as `rerun` is beside a search


class Bank:
    """Use one per thread. `write=False` opens what exists, read-only."""

    def __init__(self, path: Path | str, write: bool = False):
        self.path = str(path)
        if write:
            self._db = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)
            # NORMAL: a killed process loses nothing; a power cut may, which runs something again.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)
        elif not Path(path).exists():
            raise UserError(f"{path}: no such bank; python -m research_env.search makes one")
        else:
            uri = f"{Path(path).absolute().as_uri()}?mode=ro"
            self._db = sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)
        try:
            self._db.execute("SELECT key FROM meta LIMIT 1").fetchall()
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: not a bank of ideas ({error}); name another") from error

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "Bank":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """What is written inside is there as a whole or not at all; may be nested."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # Ideas

    def add(self, proposal: Proposal, strategy: str = "", group: str = "", niche: str = "") -> int:
        """The new idea's number, in state `queued` and without runs. Raises Duplicate."""
        proposal = Proposal(*map(storable, proposal))
        digest = content_hash(proposal.diff, f"{proposal.title}\n{proposal.text}")
        with self.at_once():
            known = self._db.execute("SELECT id FROM ideas WHERE hash=?", (digest,)).fetchone()
            if known:
                raise Duplicate(known[0])
            (number,) = self._db.execute("SELECT coalesce(max(id) + 1, 0) FROM ideas").fetchone()
            if (number == 0) != (proposal.kind == BASELINE):
                raise ValueError("idea 0, and no other, is the baseline")
            row: tuple[Any, ...] = (number, digest, proposal.title, proposal.text, proposal.diff)
            row += (json.dumps(proposal.parents), strategy, proposal.author, proposal.kind)
            row += (QUEUED, "", None, proposal.cost, proposal.tokens, 0.0, time.time(), None)
            row += (group, 0, niche or proposal.niche, self._keep_context(proposal.context))
            self._db.execute(f"INSERT INTO ideas VALUES({','.join('?' * len(row))})", row)
        return number

    def idea(self, number: int) -> Idea:
        for idea in self._ideas("WHERE id=?", number):
            return idea
        raise UserError(f"{self.path}: no idea {number}")

    def ideas(self, state: str = "") -> list[Idea]:
        """In the order in which they came."""
        return self._ideas("WHERE state=? ORDER BY id", state) if state else self._ideas("")

    def ended(self) -> list[Idea]:
        """In the order in which they ended, the baseline among them."""
        return self._ideas("WHERE finished IS NOT NULL ORDER BY finished, id")

    def known(self, diff: str) -> int | None:
        """The idea that already makes this change."""
        query = "SELECT id FROM ideas WHERE hash=?"
        found = self._db.execute(query, (content_hash(diff),)).fetchone()
        return found[0] if found else None

    def ended_ids(self) -> list[int]:
        """Without the baseline, in the order in which they came."""
        query = f"SELECT id FROM ideas WHERE finished IS NOT NULL AND kind<>'{BASELINE}'"
        return [number for (number,) in self._db.execute(f"{query} ORDER BY id")]

    def best(self, n: int, above: float | None = None) -> list[Idea]:
        """The best ideas that ran, without the baseline; only those better than `above`."""
        up = self.direction == "maximize"
        better = "" if above is None else f"AND score {'>' if up else '<'} {float(above)!r}"
        where = f"WHERE state=? AND kind<>'{BASELINE}' {better}"
        return self._ideas(f"{where} ORDER BY score {'DESC' if up else 'ASC'}, id LIMIT ?", "ok", n)

    def count(self, state: str = "") -> int:
        """Of ideas beside the baseline."""
        where, values = ("AND state=?", (state,)) if state else ("", ())
        query = f"SELECT count(*) FROM ideas WHERE kind<>'{BASELINE}' {where}"
        return self._db.execute(query, values).fetchone()[0]

    def states(self) -> dict[str, int]:
        """How many ideas beside the baseline are in each."""
        query = f"SELECT state, count(*) FROM ideas WHERE kind<>'{BASELINE}' GROUP BY state"
        return dict(self._db.execute(query))

    def cost(self) -> float:
        """Of all ideas, and of those that were refused."""
        return self._db.execute("SELECT total(cost) FROM ideas").fetchone()[0] + self.get(
            "refused_cost", 0.0
        )

    def usual_seconds(self) -> float:
        """Of a run that went well, all told, on average; 0 before there is one."""
        query = "SELECT total(finished - started) / max(1, count(*)) FROM runs WHERE state='ok'"
        return self._db.execute(query).fetchone()[0]

    def context(self, sha: str) -> str:
        found = self._db.execute("SELECT text FROM contexts WHERE sha=?", (sha,)).fetchone()
        return found[0] if found else ""

    def conclude(self, number: int) -> Idea | None:
        """Ends an idea whose runs on the search split have all ended: the last attempt of each seed
        counts, and any that is not ok is the idea's own state. None while runs are open.
        """
        last = {run.seed: run for run in self.runs(number, SEARCH)}  # the later attempt wins
        if not last or any(run.state in (QUEUED, RUNNING) for run in last.values()):
            return None
        failed = next((run for run in last.values() if run.state != State.OK), None)
        scores = [run.score for run in last.values() if run.score is not None]
        score = None if failed else sum(scores) / len(scores)
        state, reason = (failed.state, failed.reason) if failed else (State.OK.value, "")
        self._db.execute(
            "UPDATE ideas SET state=?, reason=?, score=?, finished=?, seconds="
            "(SELECT total(seconds) FROM runs WHERE idea=? AND split=?) WHERE id=?",
            (state, reason, score, time.time(), number, SEARCH, number),
        )
        return self.idea(number)

    def promote(self, number: int) -> None:
        """Marks one of those that are run again on the selection split."""
        self._db.execute("UPDATE ideas SET promoted=1 WHERE id=?", (number,))

    def repaired(self, number: int, attempt: int, error: str, repair: Proposal) -> None:
        """Puts a repaired change in the place of the idea's own, and adds what it cost."""
        with self.at_once():
            self._db.execute(
                "INSERT INTO repairs VALUES(?,?,?,?)",
                (number, attempt, storable(error), storable(repair.diff)),
            )
            # Its hash remains that of the change as proposed, which must not come again either.
            self._db.execute(
                "UPDATE ideas SET diff=?, cost=cost+?, tokens=tokens+? WHERE id=?",
                (storable(repair.diff), repair.cost, repair.tokens, number),
            )

    def repairs(self, number: int) -> list[tuple[int, str, str]]:
        """Attempt, error and repaired diff of each."""
        query = "SELECT attempt, error, diff FROM repairs WHERE idea=? ORDER BY attempt"
        return self._db.execute(query, (number,)).fetchall()

    # Runs

    def enqueue(self, idea: int, split: str, seed: int, attempt: int = 0) -> int | None:
        """The new run's number; None if there is this very one."""
        query = "INSERT OR IGNORE INTO runs VALUES(NULL,?,?,?,?,?,NULL,0,'','','{}',NULL,NULL)"
        done = self._db.execute(query, (idea, split, seed, attempt, QUEUED))
        if done.rowcount and split == SEARCH:
            self._db.execute("UPDATE ideas SET state=?, finished=NULL WHERE id=?", (QUEUED, idea))
        return done.lastrowid if done.rowcount else None

    def claim(self, splits: tuple[str, ...] = (SEARCH, SELECTION, FINAL)) -> Run | None:
        """The next in the queue, from now on `running`: earlier ideas first, with what is tried
        again of them; on the splits that confirm, in the order of the queue.
        """
        marks = ",".join("?" * len(splits))
        order = f"CASE split WHEN '{SEARCH}' THEN idea ELSE 0 END, id"
        where = f"WHERE state=? AND split IN ({marks}) ORDER BY {order} LIMIT 1"
        with self.at_once():
            queued = self._runs(where, QUEUED, *splits)
            if not queued:
                return None
            run = queued[0]
            self._db.execute(
                "UPDATE runs SET state=?, started=? WHERE id=?", (RUNNING, time.time(), run.id)
            )
            self._db.execute(
                "UPDATE ideas SET state=? WHERE id=? AND state=?", (RUNNING, run.idea, QUEUED)
            )
        return self.run(run.id)

    def withdraw(self, split: str) -> None:
        """Takes what waits out of the queue; the ideas stay, as ideas that were never run."""
        self._db.execute("DELETE FROM runs WHERE split=? AND state=?", (split, QUEUED))

    def requeue(self, run: int) -> None:
        """As if it had never been claimed."""
        self._db.execute("UPDATE runs SET state=?, started=NULL WHERE id=?", (QUEUED, run))

    def finish(self, run: int, outcome: Outcome, log: str = "") -> Run:
        metrics = json.dumps(dict(outcome.metrics))
        reason = storable(outcome.reason)
        row = (outcome.state.value, outcome.score, outcome.seconds, reason, log, metrics)
        self._db.execute(
            "UPDATE runs SET state=?, score=?, seconds=?, reason=?, log=?, metrics=?, finished=? "
            "WHERE id=?",
            (*row, time.time(), run),
        )
        return self.run(run)

    def run(self, number: int) -> Run:
        return self._runs("WHERE id=?", number)[0]

    def runs(self, idea: int, split: str = "") -> list[Run]:
        """In the order in which they were wanted, so that a later attempt comes later."""
        if split:
            return self._runs("WHERE idea=? AND split=? ORDER BY attempt, id", idea, split)
        return self._runs("WHERE idea=? ORDER BY id", idea)

    def open_runs(self, state: str = "") -> list[Run]:
        """Queued, running, or both."""
        states = (state, state) if state else (QUEUED, RUNNING)
        return self._runs("WHERE state IN (?,?) ORDER BY idea, id", *states)

    # Facts of the search

    @property
    def direction(self) -> str:
        return self.get("direction", "maximize")

    def get(self, key: str, default: Any = None) -> Any:
        found = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return json.loads(found[0]) if found else default

    def set(self, key: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (key, json.dumps(value)))

    def meta(self) -> dict[str, Any]:
        rows = self._db.execute("SELECT key, value FROM meta ORDER BY key")
        return {key: json.loads(value) for key, value in rows}

    def _keep_context(self, text: str) -> str:
        if not text:
            return ""
        sha = hashlib.sha256(text.encode()).hexdigest()
        self._db.execute("INSERT OR IGNORE INTO contexts VALUES(?,?)", (sha, text))
        return sha

    def _ideas(self, where: str, *values: Any) -> list[Idea]:
        rows = self._db.execute(f"SELECT * FROM ideas {where}", values)
        return [
            Idea(*row)._replace(parents=tuple(json.loads(row[5])), promoted=bool(row[18]))
            for row in rows
        ]

    def _runs(self, where: str, *values: Any) -> list[Run]:
        rows = self._db.execute(f"SELECT * FROM runs {where}", values)
        return [Run(*row)._replace(metrics=json.loads(row[10])) for row in rows]


if __name__ == "__main__":
    # Defined here only, since every module of a search imports this one.
    from absl import flags

    from research_env.running import listing
    from sbp_jax import cli

    STATE = flags.DEFINE_string("state", "", "Only ideas in this state.")
    BEST = flags.DEFINE_integer("best", 0, "Only so many, the best first.", lower_bound=0)
    JSON = flags.DEFINE_bool("json", False, "Everything, one JSON object a line.")
    cli.run(
        lambda workdir: listing.show(Path(workdir), STATE.value, BEST.value, JSON.value),
        needs=(),
        arguments=("WORKDIR",),
    )
