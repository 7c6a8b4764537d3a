"""A whole search on `synthetic` in one process and a second: to compare strategies over many seeds.

The researcher, the strategies and the bank are those of a real search; only the runs are not
processes. What is reported is the true value, without noise, of the idea that seems best.
"""

import random
from typing import NamedTuple

from research_env.bank import SEARCH, Bank, Duplicate
from research_env.env import Environment, seed_of
from research_env.outcome import State
from research_env.researcher.interface import BASELINE, Proposal
from research_env.researcher.mutator import Mutator
from research_env.researcher.niches import niche_of
from research_env.researcher.strategies import open_strategy
from research_env.running import inline


class Simulated(NamedTuple):
    best: list[float]  # after each idea, the true value of what seems best so far
    states: dict[str, int]


def simulate(
    environment: Environment, strategy_spec: str, ideas: int, seed: int, slots: int = 1
) -> Simulated:
    """`slots` ideas are always under way: a strategy does not know yet what came of the last ones,
    as in a real search.
    """
    landscape = inline.landscape_module()
    sources = {p: (environment.code / p).read_text() for p in environment.files(editable=True)}
    mutator = Mutator(sources, seed, lambda diff: None)
    strategy = open_strategy(strategy_spec, ideas)
    truth: dict[int, float] = {}
    best: list[float] = []
    states: dict[str, int] = {}
    with Bank(":memory:", write=True) as bank:
        bank.set("direction", environment.metric.direction)

        def begin(proposal: Proposal, strategy_name: str, group: str) -> int:
            number = bank.add(proposal, strategy_name, group, niche_of(proposal))
            bank.enqueue(number, SEARCH, seed_of(seed, number, SEARCH, 0))
            return number

        def end() -> None:
            run = bank.claim()
            assert run is not None
            source = mutator.changed_by(bank.idea(run.idea).diff)[inline.SETTINGS]
            variables = environment.environment
            outcome = inline.scored(landscape, source, variables, SEARCH, run.seed)
            bank.finish(run.id, outcome)
            idea = bank.conclude(run.idea)
            assert idea is not None
            if outcome.state is State.OK:
                truth[idea.id] = landscape.value(inline.settings_of(source))
            strategy.told(idea)
            if idea.id:
                states[idea.state] = states.get(idea.state, 0) + 1
                leader = bank.best(1, above=bank.idea(0).score)
                best.append(truth[leader[0].id if leader else 0])

        begin(Proposal("baseline", "", "", kind=BASELINE), "", "")
        end()
        under_way = wish = 0
        while len(best) < ideas:
            while under_way < slots and bank.count() < ideas:
                want = strategy.next(bank, random.Random(f"{seed}/wish/{wish}"))
                proposal = mutator.propose(bank, want._replace(wish=wish))
                wish += 1
                if proposal is None:
                    continue
                try:
                    name = want.strategy or strategy.name
                    begin(proposal, name, want.group or f"wish {wish}")
                    under_way += 1
                except Duplicate:
                    continue
            end()
            under_way -= 1
    return Simulated(best, states)
