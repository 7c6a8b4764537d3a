"""What is counted and reckoned of a search; results.json is all of it, for a program."""

import math
from collections import Counter
from typing import Any

from research_env.dashboard import plain
from research_env.dashboard.comparisons import Comparison, at
from research_env.dashboard.snapshot import OPEN, STATES, Snapshot
from sbp_jax.reporting.figures import table
from sbp_jax.reporting.wording import number

RECENT = 40  # ideas, by which the time to go is judged


def title(snapshot: Snapshot) -> str:
    return plain.line(snapshot.meta.get("env") or "Research", 80)


def spending(snapshot: Snapshot) -> dict[str, float]:
    """Costs are the ideas' and those of what was refused; wall seconds are of all starts."""
    ideas, meta = snapshot.ideas, snapshot.meta
    return {
        "ideas": sum(row.finished is not None for row in ideas),
        "cost": math.fsum(row.cost for row in ideas) + (number(meta.get("refused_cost")) or 0.0),
        "tokens": sum(row.tokens for row in ideas),
        "seconds": math.fsum(row.seconds for row in snapshot.rows),
        "wall_seconds": number(meta.get("spent_seconds")) or 0.0,
    }


def phase(snapshot: Snapshot) -> str:
    return plain.line(snapshot.meta.get("phase") or "search", 40)


def is_over(snapshot: Snapshot) -> bool:
    return bool(snapshot.meta.get("verdict")) or phase(snapshot) == "done"


def seconds_left(snapshot: Snapshot) -> float | None:
    """For ideas, by the pace of the last ones, what has passed since included; and by the cap."""
    if phase(snapshot) != "search" or snapshot.running is False:
        return None
    budget = table(snapshot.meta.get("budget"))
    guesses = []
    ended = sorted(row.finished for row in snapshot.ideas if row.finished is not None)
    total = number(budget.get("ideas"))
    if total and len(ended) >= 2:
        recent = ended[-RECENT:]
        pace = (max(snapshot.now, recent[-1]) - recent[0]) / (len(recent) - 1)
        guesses.append(max(0.0, total - len(ended)) * pace)
    if limit := number(budget.get("seconds")):
        guesses.append(max(0.0, limit - spending(snapshot)["wall_seconds"]))
    return min(guesses, default=None)


def counted(snapshot: Snapshot) -> dict[str, int]:
    found = Counter(row.state for row in snapshot.ideas)
    order = {state: i for i, state in enumerate(("ok", *OPEN, *STATES))}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], 99), item[0])))


def figures(snapshot: Snapshot, compared: Comparison) -> dict[str, Any]:
    """What the page shows, for a program."""
    n = len(compared.ended)
    best = snapshot.best()
    names = ("id", "title", "state", "score", "cost", "seconds", "kind", "strategy", "author")
    sign = -1 if snapshot.maximize else 1
    ran = sorted(
        (row for row in snapshot.ideas if row.score is not None),
        key=lambda row: (sign * (row.score or 0.0), row.id),
    )
    return {
        "title": title(snapshot),
        "facts": finite({k: v for k, v in snapshot.meta.items()}),
        "ideas": len(snapshot.ideas),
        "ended": n,
        "states": counted(snapshot),
        "spent": spending(snapshot),
        "baseline": compared.baseline,
        "noise": compared.noise,
        "best": None if best is None else best.score,
        "best_interval": None if best is None or best.score is None or compared.error is None
        else [best.score - compared.error, best.score + compared.error],
        "luck_alone": at(compared.luck, n) if compared.luck else None,
        "best_of_n": _best_of_n(compared),
        "best_so_far": [[step.n, step.score, step.row.id] for step in compared.steps],
        "best_ideas": [{name: getattr(row, name) for name in names} for row in ran[:20]],
        "retests": [
            {"idea": found.idea, "split": found.split, "scores": list(found.scores),
             "states": list(found.states)}
            for found in snapshot.retests
        ],
    }  # fmt: skip


def _best_of_n(compared: Comparison) -> dict[str, Any] | None:
    band = compared.best_of_n
    if band is None:
        return None
    return {"n": band.n[-1], "score": band.middle[-1], "low": band.low[-1], "high": band.high[-1]}


def finite(value: Any) -> Any:
    """With None for what JSON has no word for."""
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
