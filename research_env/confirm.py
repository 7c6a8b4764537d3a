"""Which ideas are run again, and whether one of them is better: never judged by the runs that chose
it.
"""

import statistics
from typing import Any

from research_env.bank import FINAL, SELECTION, Bank
from research_env.env import Metric
from research_env.outcome import State


def finalists(bank: Bank, most: int) -> list[int]:
    """The best few of those that beat the baseline on the search split."""
    baseline = bank.idea(0).score
    return [idea.id for idea in bank.best(most, above=baseline)]


def scores(bank: Bank, idea: int, split: str) -> list[float]:
    """Of its runs there; none unless all were well, since a change that sometimes fails is no
    improvement."""
    last = {run.seed: run for run in bank.runs(idea, split)}.values()
    if any(run.state != State.OK for run in last):
        return []
    return [run.score for run in last if run.score is not None]


def survivor(bank: Bank, metric: Metric) -> int | None:
    """The best of the finalists on the selection split, if it is better than the baseline there."""
    means = {
        number: statistics.fmean(found)
        for number in [0, *bank.get("finalists", [])]
        if (found := scores(bank, number, SELECTION))
    }
    if 0 not in means:
        return None
    best = max(means, key=lambda number: metric.sign * means[number])
    return best or None


def verdict(bank: Bank, metric: Metric) -> dict[str, Any]:
    return {"significant": False, "idea": bank.get("survivor")}


def told(bank: Bank) -> str:
    verdict = bank.get("verdict")
    return str(verdict)
