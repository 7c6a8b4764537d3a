"""The two halves of a search: a strategy says what is wanted next, a researcher writes it down.

A strategy holds no files: whatever it has learnt is told to it again, idea by idea, when a search
goes on after an interruption.
"""

import random
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from research_env.bank import Bank, Idea

FRESH, EXPLOIT, EXPLORE, BASELINE = "fresh", "exploit", "explore", "baseline"
KINDS = (FRESH, EXPLOIT, EXPLORE, BASELINE)


class BudgetSpent(Exception):
    """There may be money left, but not enough for the next request."""


class Want(NamedTuple):
    kind: str  # fresh: from the task alone; exploit: from the parents; explore: unlike the parents
    parents: tuple[int, ...] = ()  # to refine or combine (exploit), or to differ from (explore)
    group: str = ""  # ideas that were asked for under one context: compared with each other
    model: str = ""  # the researcher's choice if empty
    wish: int = 0  # the how-manieth of this search: with its seed, the source of every draw
    strategy: str = ""  # that wished; the search's own name if empty


class Proposal(NamedTuple):
    title: str
    text: str  # the idea in words
    diff: str  # what it changes in the codebase
    parents: tuple[int, ...] = ()
    kind: str = FRESH
    author: str = ""  # mutator, or the model's name
    cost: float = 0.0  # in the currency of --max_cost
    tokens: int = 0
    context: str = ""  # what the author was shown
    niche: str = ""  # where it belongs among ideas; the strategy's guess if empty


class Researcher(Protocol):
    def propose(self, bank: "Bank", want: Want) -> Proposal | None:
        """None where nothing new came to mind, which counts as a wish but not as an idea.

        Called from a thread, with a bank that is read-only.
        """
        ...

    def repair(self, proposal: Proposal, error: str) -> Proposal | None:
        """After its patch did not apply or its run failed; None gives the idea up.

        `cost` and `tokens` of the answer are those of the repair alone.
        """
        ...


class Strategy(Protocol):
    name: str

    def next(self, bank: "Bank", draw: random.Random) -> Want: ...

    def told(self, idea: "Idea") -> None:
        """An idea that has ended, in whatever state, in the order in which ideas end."""
        ...
