"""A search from its baseline to its verdict, decided anew at each event from what the bank holds.

Phases: `search` (the baseline's runs, then ideas, each taking the first free slot), `selection`
(the best few and the baseline again, on another split, with fresh seeds), `final` (the survivor and
the baseline on a third), `done`. No state is kept here that a killed process would lose.
"""

import math
import random
import time
from collections.abc import Callable

from research_env.bank import FINAL, QUEUED, RUNNING, SEARCH, SELECTION, Bank, Duplicate, Idea
from research_env.env import Environment, seed_of
from research_env.outcome import State
from research_env.researcher.interface import BASELINE, Proposal, Strategy, Want
from research_env.researcher.niches import niche_of
from research_env.running import confirm
from research_env.running.attempts import Attempts
from research_env.running.desk import Answer, Desk
from research_env.running.plan import Plan
from research_env.running.scheduler import Scheduler
from sbp_jax.errors import UserError

DONE = "done"
_FRUITLESS = 50  # wishes in a row without a new idea: the researcher has no more


class Campaign:
    """`told` is called with each idea that ends, for a person to see."""

    def __init__(
        self,
        bank: Bank,
        environment: Environment,
        scheduler: Scheduler,
        desk: Desk,
        strategy: Strategy,
        plan: Plan,
        told: Callable[[Idea], None],
    ):
        self.bank, self.environment, self.scheduler = bank, environment, scheduler
        self._desk, self._strategy, self.plan, self._told = desk, strategy, plan, told
        workdir = scheduler.runs_dir.parent
        self._attempts = Attempts(bank, desk, plan, scheduler.slots, workdir, self._concluded)
        self._purse_is_empty = False
        self._want: Want | None = None
        self._since, self._spent = time.monotonic(), float(bank.get("spent_seconds", 0.0))

    @property
    def phase(self) -> str:
        return self.bank.get("phase", SEARCH)

    @property
    def spent_seconds(self) -> float:
        """In all starts of this search together."""
        return self._spent + time.monotonic() - self._since

    @property
    def spent_cost(self) -> float:
        return self.bank.cost()

    @property
    def draining(self) -> bool:
        """Finishes what runs, begins nothing."""
        return self._attempts.draining

    def drain(self) -> None:
        self._attempts.draining = True

    def begin(self) -> None:
        """Looks after what an earlier process left."""
        self._add_baseline()
        for idea in self.bank.ended():
            self._strategy.told(idea)
        for run in self.scheduler.adopt():
            self._attempts.follow(run)
        for state in (QUEUED, RUNNING):
            for idea in self.bank.ideas(state):
                self._attempts.settle(idea.id)
        for number in (0, *self.bank.get("finalists", ())):
            for split in (SELECTION, FINAL):
                self._attempts.retry(number, split)

    def step(self, seconds: float | None) -> bool:
        """Begins what can begin and waits for the next event; whether there is more to do."""
        self._advance()
        if not self.draining:
            self.scheduler.fill(self._splits())
        if not (self.scheduler.running or self._desk.wishes or self._desk.repairing):
            return not self.draining and self._advance()
        for run in self.scheduler.wait(self._patience(seconds)):
            self._attempts.ended(run)
        for answer in self._desk.answers():
            self._answered(answer)
        self.bank.set("spent_seconds", self.spent_seconds)
        return True

    def leave(self) -> None:
        """At once: what runs is ended and goes back into the queue."""
        self.drain()
        for run in self.scheduler.stop():
            self._attempts.ended(run)
        self.bank.set("spent_seconds", self.spent_seconds)

    def time_left(self) -> float:
        """For new ideas: what the cap leaves when confirming one of them is set aside."""
        return self._cap_left() - self.confirmation_seconds(1)

    def _cap_left(self) -> float:
        return self.plan.max_hours * 3600 - self.spent_seconds if self.plan.max_hours else math.inf

    def _most_finalists(self) -> int:
        """As many as there is time for, whatever their scores; one at least."""
        fits = [n for n in range(1, self.plan.top + 1) if self._fits(n)]
        return max(fits, default=1)

    def _fits(self, finalists: int) -> bool:
        return self.confirmation_seconds(finalists) <= self._cap_left()

    def confirmation_seconds(self, finalists: int = 0) -> float:
        """How long selection and final will take, judged by the runs so far, with a tenth more."""
        each = self.bank.usual_seconds()
        waves = 0
        for split, tested in ((SELECTION, finalists or self.plan.top), (FINAL, 1)):
            runs = confirm.wanted(self.environment, split, tested)
            waves += -(-(runs[True] + tested * runs[False]) // self.scheduler.slots)
        return 1.1 * waves * each

    def _add_baseline(self) -> None:
        if not self.bank.ideas():
            with self.bank.at_once():
                self.bank.add(Proposal("baseline", "The code as it is.", "", kind=BASELINE))
                self._enqueue(0, SEARCH, max(self.plan.baseline_runs, self._seeds(SEARCH)))

    def _advance(self) -> bool:
        """To the next phase where this one is over; in `search`, asks for ideas."""
        if self.phase == SEARCH:
            self._refuse_bad_baseline()
            while self._wants_more():
                self._ask()
            if self._search_goes_on():
                return True
            finalists = confirm.finalists(self.bank, self._most_finalists())
            with self.bank.at_once():
                self.bank.withdraw(SEARCH)  # for which there was no time
                self._enqueue_again(SELECTION, finalists)
                for number in finalists:
                    self.bank.promote(number)
                self.bank.set("finalists", finalists)
                self._enter(SELECTION)
        open_splits = {run.split for run in self.bank.open_runs()}
        if self.phase == SELECTION and SELECTION not in open_splits:
            champion = confirm.champion(self.bank, self.environment)
            with self.bank.at_once():
                self._enqueue_again(FINAL, [] if champion is None else [champion])
                self.bank.set("champion", champion)
                self._enter(FINAL)
        if self.phase == FINAL and FINAL not in {run.split for run in self.bank.open_runs()}:
            with self.bank.at_once():
                self.bank.set("verdict", confirm.verdict(self.bank, self.environment))
                self._enter(DONE)
        return bool(self.bank.open_runs())

    def _enter(self, phase: str) -> None:
        self.bank.set("phase", phase)

    def _refuse_bad_baseline(self) -> None:
        baseline = self.bank.idea(0)
        if baseline.finished and baseline.state != State.OK:
            raise UserError(
                f"the baseline itself ended as {baseline.state}: {baseline.reason}; mend the "
                "environment (python -m research_env.check tells more) and take a new workdir"
            )

    def _search_goes_on(self) -> bool:
        if self.draining or self._desk.wishes or self._desk.repairing:
            return True
        if any(run.split == SEARCH for run in self.scheduler.running):
            return True
        if self.bank.idea(0).finished is None:
            return True
        waits = any(run.split == SEARCH for run in self.bank.open_runs())
        return waits and not self._is_over()

    def _is_over(self) -> bool:
        """The time for ideas: those still in the queue are left there."""
        return self.time_left() <= 0

    def _wants_more(self) -> bool:
        if self.draining or self._is_over() or not self._baseline_runs():
            return False
        if self._purse_is_empty or self.bank.get("fruitless", 0) >= _FRUITLESS:
            return False
        if self.plan.max_cost and self.spent_cost >= self.plan.max_cost:
            return False
        if self.bank.count() + self._desk.wishes >= self.plan.ideas:
            return False
        waiting = len(self.bank.open_runs(QUEUED)) + self._desk.wishes
        # Of many slots one is always about to be free; a few ideas ready for them cost no insight.
        ahead = max(self.plan.ahead, self.scheduler.slots // 16)
        return waiting < self.scheduler.free + ahead

    def _baseline_runs(self) -> bool:
        """Ideas need not wait for all of its repetitions."""
        return any(run.state == State.OK for run in self.bank.runs(0, SEARCH))

    def _ask(self) -> None:
        wish = self.bank.get("wishes", 0)
        self.bank.set("wishes", wish + 1)
        if self._want is None or wish % self.plan.call == 0:
            draw = random.Random(f"{self.plan.seed}/wish/{wish}")
            want = self._strategy.next(self.bank, draw)
            group = want.group or f"{want.kind} {wish}"
            name = want.strategy or self._strategy.name
            self._want = want._replace(group=group, strategy=name)
        self._desk.wish(self._want._replace(wish=wish))

    def _answered(self, answer: Answer) -> None:
        self._purse_is_empty |= answer.spent
        if answer.want is None:
            assert answer.idea is not None
            self._attempts.repaired(answer.idea, answer.error, answer.proposal)
            return
        want, proposal = answer.want, answer.proposal
        if answer.spent:
            return
        with self.bank.at_once():
            fruitless = self.bank.get("fruitless", 0) + 1
            if proposal is not None:
                try:
                    niche = proposal.niche or niche_of(proposal)
                    number = self.bank.add(proposal, want.strategy, want.group, niche)
                    self._enqueue(number, SEARCH, self._seeds(SEARCH))
                    fruitless = 0
                except Duplicate:
                    cost = self.bank.get("refused_cost", 0.0) + proposal.cost
                    self.bank.set("refused_cost", cost)
                    self.bank.set("refused", self.bank.get("refused", 0) + 1)
            self.bank.set("fruitless", fruitless)

    def _concluded(self, idea: Idea) -> None:
        self._strategy.told(idea)
        self._told(idea)

    def _enqueue(self, idea: int, split: str, runs: int) -> None:
        for index in range(runs):
            self.bank.enqueue(idea, split, seed_of(self.plan.seed, idea, split, index))

    def _enqueue_again(self, split: str, ideas: list[int]) -> None:
        """Taking turns, evenly spread, so that a machine that gets slower or faster meanwhile does
        so for all alike: else who runs later would be compared with another machine's baseline.
        """
        wanted = confirm.wanted(self.environment, split, len(ideas))
        turns = []
        for number in [0, *ideas] if ideas else []:
            runs = wanted[number == 0]
            turns += [((index + 0.5) / runs, number, index) for index in range(runs)]
        for _, number, index in sorted(turns):
            self.bank.enqueue(number, split, seed_of(self.plan.seed, number, split, index))

    def _seeds(self, split: str) -> int:
        return self.environment.seeds[split]

    def _splits(self) -> tuple[str, ...]:
        """When the time for ideas is over, those in the queue no longer start."""
        over = self.phase == SEARCH and self._is_over() and self.bank.idea(0).finished
        return () if over else (SEARCH, SELECTION, FINAL)

    def _patience(self, seconds: float | None) -> float | None:
        """Until the time for ideas is over at the latest."""
        left = self.time_left() if self.phase == SEARCH else float("inf")
        bounds = [b for b in (seconds, left if left > 0 else None) if b is not None]
        shortest = min(bounds, default=float("inf"))
        return None if shortest == float("inf") else shortest
