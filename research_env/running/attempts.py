"""What follows when a run has ended: another attempt, a repair, or the end of its idea."""

import statistics
from collections.abc import Callable
from pathlib import Path

from research_env.bank import QUEUED, RUNNING, SEARCH, Bank, Idea, Run
from research_env.outcome import State
from research_env.researcher.interface import Proposal
from research_env.running.desk import Desk
from research_env.running.plan import Plan
from sbp_jax.errors import UserError

REPAIRABLE = (State.PATCH_FAILED, State.CRASHED, State.OUT_OF_MEMORY, State.INVALID_METRIC)
_HOPELESS = 8  # runs in a row, or two of every slot, that the harness failed: it needs mending
_PRINTED = 4000  # characters of a failed run's log, for its repair


class Attempts:
    """All is decided from the bank, so that it may be decided again after a kill. `concluded` is
    called with each idea that ends.
    """

    def __init__(
        self,
        bank: Bank,
        desk: Desk,
        plan: Plan,
        slots: int,
        workdir: Path,
        concluded: Callable[[Idea], None],
    ):
        self._bank, self._desk, self._plan = bank, desk, plan
        self._slots, self._workdir, self._concluded = slots, workdir, concluded
        self.draining = False  # begin no repair
        self._hopeless = 0

    def ended(self, run: Run) -> None:
        self._hopeless = self._hopeless + 1 if run.state == State.INFRASTRUCTURE else 0
        self.follow(run)
        if self._hopeless >= max(_HOPELESS, 2 * self._slots):
            raise UserError(
                f"{self._hopeless} runs in a row failed for reasons of the harness, the last one: "
                f"{run.reason}; mend that and give the same command again"
            )

    def follow(self, run: Run) -> None:
        """One that ended before this start: many at once were lost with their machine, perhaps."""
        if run.split == SEARCH:
            self.settle(run.idea)
        else:
            self._retry(run)

    def settle(self, number: int) -> None:
        """An idea, if its runs on the search split have ended."""
        self.retry(number, SEARCH)
        last = self._last(number, SEARCH)
        if not last or any(run.state in (QUEUED, RUNNING) for run in last):
            return
        failed = next((run for run in last if run.state in REPAIRABLE), None)
        if failed and number and len(self._bank.repairs(number)) < self._plan.repairs:
            if not (self.draining or number in self._desk.repairing):  # else later
                idea = self._bank.idea(number)
                self._desk.repair(number, _proposal(idea), self._error_of(failed))
            return
        self._conclude(number)

    def repaired(self, number: int, error: str, repair: Proposal | None) -> None:
        if repair is None or not repair.diff.strip():
            self._conclude(number)
            return
        runs = self._bank.runs(number, SEARCH)
        attempt = max(run.attempt for run in runs) + 1
        with self._bank.at_once():
            self._bank.repaired(number, attempt, error, repair)
            for seed in sorted({run.seed for run in runs}):
                self._bank.enqueue(number, SEARCH, seed, attempt)

    def retry(self, number: int, split: str) -> None:
        for run in self._last(number, split):
            self._retry(run)

    def _retry(self, run: Run) -> None:
        """Of failures of ours only, and not for ever."""
        if run.state != State.INFRASTRUCTURE:
            return
        same = [r for r in self._bank.runs(run.idea, run.split) if r.seed == run.seed]
        if sum(r.state == State.INFRASTRUCTURE for r in same) <= self._plan.retries:
            self._bank.enqueue(run.idea, run.split, run.seed, max(r.attempt for r in same) + 1)

    def _last(self, number: int, split: str) -> list[Run]:
        """Attempts, of each seed."""
        return list({run.seed: run for run in self._bank.runs(number, split)}.values())

    def _conclude(self, number: int) -> None:
        idea = self._bank.conclude(number)
        assert idea is not None
        if number == 0 and idea.state == State.OK:
            scores = [r.score for r in self._bank.runs(0, SEARCH) if r.score is not None]
            self._bank.set("noise", statistics.stdev(scores) if len(scores) > 1 else None)
            self._bank.set("baseline", {SEARCH: idea.score})
        self._concluded(idea)

    def _error_of(self, run: Run) -> str:
        log = self._workdir / run.log
        printed = log.read_text(errors="replace")[-_PRINTED:] if run.log and log.exists() else ""
        return f"{run.state}: {run.reason}\n{printed}".strip()


def _proposal(idea: Idea) -> Proposal:
    return Proposal(idea.title, idea.text, idea.diff, idea.parents, idea.kind, idea.author)
