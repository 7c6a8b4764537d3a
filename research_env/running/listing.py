"""What `python -m research_env.bank` prints: ideas in a table, or all about them as JSON."""

import json
from pathlib import Path

from research_env.bank import NAME, QUEUED, RUNNING, Bank, Idea
from research_env.outcome import State
from research_env.running.live import short
from sbp_jax.errors import UserError

STATES = (QUEUED, RUNNING, *(state.value for state in State))


def show(workdir: Path, state: str = "", best: int = 0, as_json: bool = False) -> None:
    if state and state not in STATES:
        raise UserError(f"--state={state}: must be one of {', '.join(STATES)}")
    if state not in ("", State.OK) and best:
        raise UserError(f"--best={best}: ideas that are {state} have no score to go by")
    with Bank(workdir / NAME) as bank:
        ideas = bank.best(best) if best else bank.ideas(state)
        if as_json:
            for idea in ideas:
                print(json.dumps(record(bank, idea)))
            return
        print(_row("id", "state", "score", "kind", "parents", "cost", "title"))
        for idea in ideas:
            score = "" if idea.score is None else f"{idea.score:.5g}"
            parents = ",".join(map(str, idea.parents))
            title = idea.title + (f": {idea.reason}" if idea.reason else "")
            cost = f"{idea.cost:.3g}" if idea.cost else ""
            print(_row(str(idea.id), idea.state, score, idea.kind, parents, cost, title))


def record(bank: Bank, idea: Idea) -> dict[str, object]:
    """An idea with its runs and repairs."""
    repairs = [
        {"attempt": attempt, "error": error, "diff": diff}
        for attempt, error, diff in bank.repairs(idea.id)
    ]
    runs = [run._asdict() for run in bank.runs(idea.id)]
    return {**idea._asdict(), "runs": runs, "repairs": repairs}


def _row(*cells: str) -> str:
    number, state, score, kind, parents, cost, title = (short(cell, 100) for cell in cells)
    return f"{number:>5} {state:14} {score:>9} {kind:8} {parents:>9} {cost:>6} {title}".rstrip()
