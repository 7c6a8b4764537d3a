"""How far a search goes: its budgets, and how often what is tried again."""

from typing import NamedTuple


class Plan(NamedTuple):
    """What a person may set, and change from one start to the next."""

    seed: int
    ideas: int
    max_hours: float = 0.0  # 0: no cap
    max_cost: float = 0.0
    baseline_runs: int = 3
    top: int = 3  # ideas that are run again on the selection split
    repairs: int = 2  # of one idea
    retries: int = 2  # of one run, for the harness's failures
    ahead: int = 0  # ideas that wait for a slot, where thinking takes long
    call: int = 1  # ideas that are wished for under one context, as a model writes them at once
