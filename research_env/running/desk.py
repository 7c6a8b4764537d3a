"""Where the researcher is asked, in threads, so that runs go on while it thinks."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from research_env.bank import Bank
from research_env.researcher.interface import BudgetSpent, Proposal, Researcher, Want


class Answer(NamedTuple):
    want: Want | None  # of a proposal
    idea: int | None  # of a repair
    error: str  # that a repair was asked for
    proposal: Proposal | None
    spent: bool = False  # there is no budget for another


class Desk:
    """`ring` is called from a thread whenever an answer is there."""

    def __init__(self, researcher: Researcher, bank: Path, threads: int, ring: Callable[[], None]):
        self._researcher, self._path, self._ring = researcher, bank, ring
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="researcher")
        self._own = threading.local()
        self._asked: list[tuple[Want | None, int | None, str, Future[Proposal | None]]] = []

    def wish(self, want: Want) -> None:
        self._ask(want, None, "", lambda: self._researcher.propose(self._bank(), want))

    def repair(self, idea: int, proposal: Proposal, error: str) -> None:
        self._ask(None, idea, error, lambda: self._researcher.repair(proposal, error))

    @property
    def wishes(self) -> int:
        return sum(want is not None for want, *_ in self._asked)

    @property
    def repairing(self) -> frozenset[int]:
        return frozenset(idea for _, idea, *_ in self._asked if idea is not None)

    def answers(self) -> list[Answer]:
        """Those that are there. Raises what the researcher raised."""
        done = [asked for asked in self._asked if asked[3].done()]
        self._asked = [asked for asked in self._asked if asked not in done]
        found = []
        for want, idea, error, future in done:
            try:
                found.append(Answer(want, idea, error, future.result()))
            except BudgetSpent:
                found.append(Answer(want, idea, error, None, spent=True))
        return found

    def close(self) -> None:
        """Without waiting for answers that nobody will read."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(
        self,
        want: Want | None,
        idea: int | None,
        error: str,
        call: Callable[[], Proposal | None],
    ) -> None:
        future = self._pool.submit(call)
        self._asked.append((want, idea, error, future))
        future.add_done_callback(lambda _: self._ring())

    def _bank(self) -> Bank:
        """SQLite's connections belong to one thread each."""
        if not hasattr(self._own, "bank"):
            self._own.bank = Bank(self._path)
        return self._own.bank
