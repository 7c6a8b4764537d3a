"""Which ideas are run again, and what is said at the end: not judged by the runs that chose them.

Imported late: `significance`, whose SciPy takes a second that `--help` need not wait for.
"""

import statistics
from typing import TYPE_CHECKING, Any

from research_env.bank import FINAL, SEARCH, SELECTION, Bank
from research_env.env import Environment
from research_env.outcome import State

if TYPE_CHECKING:
    from research_env.significance import Tested


def finalists(bank: Bank, most: int) -> list[int]:
    """The best few of those that beat the baseline on the search split."""
    return [idea.id for idea in bank.best(most, above=bank.idea(0).score)]


def wanted(environment: Environment, split: str, tested: int) -> dict[bool, int]:
    """Runs on a split of the baseline (True), which must suffice for a verdict, and of an idea."""
    from research_env import significance

    seeds = environment.seeds[split]
    return {True: significance.baseline_runs(seeds, tested), False: seeds}


def champion(bank: Bank, environment: Environment) -> int | None:
    """The finalist that passed the selection split, if one did."""
    from research_env import significance

    return significance.champion(_selection(bank, environment))


def verdict(bank: Bank, environment: Environment) -> dict[str, Any]:
    """What is kept in the bank and shown: plain values."""
    from research_env import significance

    tried, metric = bank.count(), environment.metric
    best = bank.get("champion")
    decision = significance.decide(
        _selection(bank, environment),
        scores(bank, best, FINAL) if best is not None else [],
        scores(bank, 0, FINAL) if best is not None else [],
        metric.sign,
        environment.seeds[FINAL],
    )
    found = decision.promoted is not None
    words = decision.words
    if not bank.get("finalists"):
        ran = bank.count(State.OK)
        words = (
            f"none of the {ran} ideas that ran well was better than the baseline"
            if ran
            else "no idea ran to a score"
        )
    said: dict[str, Any] = {"said": words, "significant": found, "tried": tried}
    said["idea"] = decision.promoted
    if decision.final is not None:
        effect = decision.final.effect
        said |= {
            "better_by": effect.mean,
            "at_least": effect.low,
            "at_most": effect.high,
            "p": decision.final.p,
            "baseline_final": _mean(bank, 0, FINAL),
            "score_final": _mean(bank, decision.final.idea, FINAL),
        }
    return said


def told(bank: Bank) -> str:
    """For the end of a search, in a terminal."""
    said, baseline = bank.get("verdict"), bank.idea(0)
    lines = [f"{said['tried']} ideas; baseline {baseline.score:.5g} on the {SEARCH} split"]
    if best := bank.best(1):
        lines.append(
            f"best there: idea {best[0].id} with {best[0].score:.5g}, by itself no evidence"
        )
    lines.append(f"the referee, on fresh seeds and other data: {said['said']}")
    return "\n".join(lines)


def scores(bank: Bank, idea: int, split: str) -> list[float]:
    """Of the runs there that went well, by the last attempt of each seed."""
    last = {run.seed: run for run in bank.runs(idea, split)}.values()
    return [run.score for run in last if run.state == State.OK and run.score is not None]


def _selection(bank: Bank, environment: Environment) -> tuple["Tested", ...]:
    from research_env import significance

    baseline = scores(bank, 0, SELECTION)
    found = {number: scores(bank, number, SELECTION) for number in bank.get("finalists", [])}
    if len(baseline) < 2:  # nothing can be compared with it
        found = dict.fromkeys(found, [])
        baseline = [0.0, 0.0]
    sign, seeds = environment.metric.sign, environment.seeds[SELECTION]
    return significance.select(found, baseline, sign, seeds)


def _mean(bank: Bank, idea: int, split: str) -> float | None:
    found = scores(bank, idea, split)
    return statistics.fmean(found) if found else None
