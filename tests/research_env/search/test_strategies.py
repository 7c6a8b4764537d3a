import random
import statistics

import pytest

from research_env.bank import SEARCH, Bank
from research_env.env import load
from research_env.outcome import Outcome, State
from research_env.researcher.interface import BASELINE, EXPLOIT, EXPLORE, FRESH, Proposal
from research_env.researcher.strategies import NAMES, open_strategy
from research_env.running.simulate import simulate
from sbp_jax.errors import UserError


@pytest.fixture
def bank():
    with Bank(":memory:", write=True) as made:
        made.set("direction", "minimize")
        add(made, "", 1.0, kind=BASELINE)
        yield made


def add(bank, diff, score, kind=FRESH, group="", niche="", strategy="", author=""):
    number = bank.add(Proposal(diff, "", diff, kind=kind, author=author), strategy, group, niche)
    bank.enqueue(number, SEARCH, 0)
    state = State.CRASHED if score is None else State.OK
    bank.finish(bank.claim().id, Outcome(state, score))
    return bank.conclude(number).id


def wants(strategy, bank, count=200):
    return [strategy.next(bank, random.Random(f"{number}")) for number in range(count)]


def test_evolution_begins_with_fresh_ideas(bank):
    assert {want.kind for want in wants(open_strategy("evolution:epoch=5", 0), bank)} == {FRESH}


@pytest.mark.parametrize(("epoch", "share"), [(1, 0.5), (2, 0.6), (4, 0.7), (6, 0.8), (9, 0.8)])
def test_evolution_exploits_in_the_share_of_the_paper_s_schedule(bank, epoch, share):
    for number in range(epoch * 5):
        add(bank, f"d{number}", 0.5)
    found = [want.kind for want in wants(open_strategy("evolution:epoch=5", 0), bank, 600)]
    assert found.count(EXPLOIT) / len(found) == pytest.approx(share, abs=0.06)
    assert set(found) == {EXPLOIT, EXPLORE}


def test_evolution_builds_only_on_what_beat_the_baseline(bank):
    for number in range(10):
        add(bank, f"worse{number}", 1.5)
    good = {add(bank, f"better{number}", 0.5) for number in range(3)}
    found = wants(open_strategy("evolution:epoch=5", 0), bank)
    parents = {p for want in found if want.kind == EXPLOIT for p in want.parents}
    assert parents == good
    shown = {p for want in found if want.kind == EXPLORE for p in want.parents}
    assert len(shown) == 13  # explorers are shown all kinds


def test_greedy_refines_the_best_in_the_direction_of_the_metric(bank):
    for number, score in enumerate((0.9, 0.4, 0.6)):
        add(bank, f"d{number}", score)
    found = wants(open_strategy("greedy:fresh=3", 0), bank, 5)
    assert {(want.kind, want.parents) for want in found} == {(EXPLOIT, (2,))}


def test_best_of_n_never_looks_back(bank):
    add(bank, "good", 0.1)
    assert {w[:2] for w in wants(open_strategy("best_of_n", 0), bank)} == {(FRESH, ())}


def test_islands_keep_to_themselves_but_for_migrants(bank):
    home = {}
    for number in range(24):
        group = f"island {number % 4}"
        home[add(bank, f"d{number}", 0.5 + number / 100, group=group)] = group
    alone = open_strategy("islands:migrate=0,fresh=0", 0)
    for want in wants(alone, bank):
        assert want.kind == EXPLOIT
        assert {home[parent] for parent in want.parents} == {want.group}
    mixed = wants(open_strategy("islands:migrate=1,fresh=0", 0), bank)
    assert all(home[w.parents[0]] == w.group != home[w.parents[1]] for w in mixed)
    assert len({want.group for want in mixed}) == 4


def test_map_elites_refines_the_best_of_every_niche(bank):
    best = {}
    for number in range(12):
        niche = f"{number % 3}"
        score = 0.9 - number / 100
        best[niche] = add(bank, f"d{number}", score, niche=niche)
    found = wants(open_strategy("map_elites:fresh=0,combine=0", 0), bank)
    assert {want.parents for want in found} == {(number,) for number in best.values()}


def test_the_bandit_comes_to_prefer_what_brings_better_ideas(bank):
    bandit = open_strategy("bandit", 100)
    draw = random.Random(0)
    for number in range(120):
        want = bandit.next(bank, draw)
        score = 0.2 if want.strategy == "greedy" else 0.8
        add(bank, f"d{number}", score + draw.random() / 10, strategy=want.strategy)
    chosen = [idea.strategy for idea in bank.ideas() if idea.id]
    assert chosen.count("greedy") > 0.5 * len(chosen)
    assert set(chosen) == set(NAMES) - {"bandit"}


def test_the_bandit_chooses_among_models_too(bank):
    bandit = open_strategy("bandit", 100, models=("small", "large"))
    draw = random.Random(0)
    for number in range(150):
        want = bandit.next(bank, draw)
        score = (0.2 if want.model == "large" else None) if draw.random() < 0.9 else None
        add(bank, f"d{number}", score, strategy=want.strategy, author=want.model)
    authors = [idea.author for idea in bank.ideas() if idea.id]
    assert authors.count("large") > 0.6 * len(authors)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("annealing", "no such strategy; there are evolution"),
        ("evolution:epochs=3", "'epochs=3': it can set epoch=0, pool=100"),
        ("evolution:epoch=many", "'epoch=many'"),
        ("best_of_n:n=3", "it can set nothing"),
    ],
)
def test_a_misspelt_strategy_is_told_with_what_there_is(spec, says):
    with pytest.raises(UserError, match=says):
        open_strategy(spec, 10)


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_improves_on_the_baseline_and_repeats_itself(name):
    environment = load("synthetic")
    first = simulate(environment, name, 40, seed=3, slots=4)
    assert first == simulate(environment, name, 40, seed=3, slots=4)
    assert len(first.best) == sum(first.states.values()) == 40
    assert first.best[-1] > 0.55  # the start has 0.51


def test_building_on_what_was_found_beats_best_of_n_at_equal_budget():
    environment = load("synthetic")
    ends = {
        name: [simulate(environment, name, 60, seed).best[-1] for seed in range(6)]
        for name in ("best_of_n", "greedy")
    }
    gains = [a - b for a, b in zip(ends["greedy"], ends["best_of_n"], strict=True)]
    error = statistics.stdev(gains) / len(gains) ** 0.5
    assert statistics.fmean(gains) > 4.03 * error  # 99% of Student's t with 5 degrees
