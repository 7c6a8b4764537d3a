"""A search among ideas that change nothing promotes none, and one that matters is found."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from research_env import significance
from research_env.significance import baseline_runs, champion, decide, holm, p_value, select

IDEAS, SEEDS, TOP = 256, 3, 4
BASELINE = baseline_runs(SEEDS, TOP)


def normal(draw, shape, effect):
    return draw.normal(effect, 1, shape)


def heavy_tailed(draw, shape, effect):
    return draw.standard_t(3, shape) + effect


def accuracy(draw, shape, effect):
    """Of 500 problems, of which half are solved: the noise of the paper's own task."""
    return draw.binomial(500, np.clip(0.48 + 0.0223 * effect, 0, 1), shape) / 500


def skewed(draw, shape, effect):
    return draw.exponential(1, shape) + effect


def search(draw, noise, ideas=IDEAS, best=0.0, split_luck=0.0):
    """One search with idea 1 better by `best` sd, and what it promotes at each of its two tests.

    `split_luck`: what a split adds to an idea by chance, whatever the seed, for example because it
    holds few problems; drawn anew for each split.
    """
    effects = np.zeros(ideas)
    effects[0] = best

    def run(which, seeds):
        luck = split_luck * draw.normal(size=len(which))
        return noise(draw, (len(which), seeds), (effects[which] + luck)[:, None])

    top = np.argsort(-run(np.arange(ideas), 1)[:, 0])[:TOP]
    again = {int(i) + 1: row.tolist() for i, row in zip(top, run(top, SEEDS), strict=True)}
    selection = select(again, noise(draw, BASELINE, 0), 1, SEEDS)
    chosen = champion(selection)
    final = [] if chosen is None else run(np.array([chosen - 1]), SEEDS)[0].tolist()
    decision = decide(selection, final, noise(draw, BASELINE, 0).tolist(), 1, SEEDS)
    return chosen, decision


def most_false_alarms(searches, rate=significance.ALPHA):
    """More would happen to a rule with that rate once in a thousand times."""
    return stats.binom.ppf(0.999, searches, rate)


@pytest.mark.parametrize("noise", [normal, heavy_tailed, accuracy, skewed])
def test_a_search_of_256_ideas_that_change_nothing_promotes_none(noise):
    draw = np.random.default_rng(1)
    searches = [search(draw, noise) for _ in range(1000)]
    on_selection = sum(chosen is not None for chosen, _ in searches)
    promoted = sum(decision.promoted is not None for _, decision in searches)
    assert on_selection <= most_false_alarms(1000)  # the first test alone keeps its word
    assert promoted <= most_false_alarms(1000, 0.05**2)  # and the second is independent of it


def test_luck_with_a_split_is_found_out_on_the_final_one():
    """An idea may suit the selection split by chance, with every seed: fresh seeds do not tell."""
    draw = np.random.default_rng(2)
    searches = [search(draw, normal, split_luck=1.0) for _ in range(300)]
    on_selection = sum(chosen is not None for chosen, _ in searches)
    promoted = sum(decision.promoted is not None for _, decision in searches)
    assert on_selection > most_false_alarms(300)  # selection alone would be fooled
    assert promoted <= most_false_alarms(300)


def test_the_rule_of_the_best_score_promotes_nothing_nearly_always():
    """The best of 256 ideas by ten evaluations of 500 problems each, at a true .48 for all."""
    draw = np.random.default_rng(3)
    best = [accuracy(draw, (IDEAS, 10), 0).max() for _ in range(200)]
    assert np.mean(best) == pytest.approx(0.559, abs=0.005)
    beats = accuracy(draw, (4000, 10), 0).max(1) > 0.49
    assert np.mean(beats) > 0.95


@pytest.mark.parametrize("effect", [6.0, 10.0])
def test_an_idea_far_above_the_noise_is_promoted_with_an_interval_that_holds_its_effect(effect):
    draw = np.random.default_rng(4)
    decisions = [search(draw, normal, best=effect)[1] for _ in range(100)]
    right = [d for d in decisions if d.promoted == 1]
    assert len(right) >= 75
    holds = sum(d.final.effect.low <= effect <= d.final.effect.high for d in right)
    assert holds >= 0.85 * len(right)


def test_a_worse_idea_is_never_better_whichever_way_the_metric_goes():
    good, bad = [1.0, 1.1, 1.05], [2.0, 2.1, 1.9, 2.2, 2.05, 2.15]
    assert p_value(good, bad, sign=-1) < 0.02
    assert p_value(good, bad, sign=1) > 0.98
    assert significance.effect(good, bad, sign=-1).low > 0


scores = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=4)


@given(scores, st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=7))
def test_p_values_are_probabilities_and_not_below_what_permutations_allow(idea, baseline):
    p = p_value(idea, baseline, 1)
    assert 1 / math.comb(len(idea) + len(baseline), len(idea)) - 1e-12 <= p <= 1


@given(st.floats(-1e3, 1e3), st.integers(2, 5), st.integers(2, 7))
def test_equal_scores_without_noise_show_nothing(value, seeds, runs):
    assert p_value([value] * seeds, [value] * runs, 1) == 1
    # nor does what rounding adds
    assert p_value([value * (1 + 1e-15)] * seeds, [value] * runs, 1) == 1


def test_without_noise_any_difference_is_as_sure_as_the_runs_allow():
    assert p_value([1.01] * 3, [1.0] * 7, 1) == pytest.approx(1 / 120)
    assert p_value([0.99] * 3, [1.0] * 7, 1) == 1


def test_an_idea_that_only_spreads_more_is_no_improvement():
    """Same mean, five times the spread: the exact test alone would be fooled."""
    draw = np.random.default_rng(5)
    ps = [
        p_value(draw.normal(0, 5, SEEDS), draw.normal(0, 1, BASELINE), sign=1) for _ in range(1000)
    ]
    assert sum(p <= 0.05 for p in ps) <= most_false_alarms(1000)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_never_lowers_a_p_value_nor_changes_their_order(ps):
    corrected = holm(ps)
    assert all(p <= c <= min(1, p * len(ps)) + 1e-12 for p, c in zip(ps, corrected, strict=True))
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    assert sorted(corrected) == [corrected[i] for i in order]
    assert min(corrected) == pytest.approx(min(1, min(ps) * len(ps)))


@pytest.mark.parametrize("tested", [1, 4, 8])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_with_the_baseline_runs_asked_for_a_perfect_idea_passes(seeds, tested):
    runs = baseline_runs(seeds, tested)
    baseline = np.linspace(0, 0.001, runs).tolist()
    ideas = {1: [9.0 + 0.001 * i for i in range(seeds)]}
    ideas |= {k: baseline[:seeds] for k in range(2, tested + 1)}
    assert champion(select(ideas, baseline, 1, seeds)) == 1


def test_an_idea_that_failed_in_one_of_its_runs_is_not_promoted_by_the_others():
    baseline = [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    tested = select({1: [9.0, 9.1], 2: [], 3: [9.0, 9.1, 9.2]}, baseline, 1, 3)
    assert [t.corrected <= 0.05 for t in tested] == [True, False, False]
    assert champion(tested) == 3
    assert decide(tested, [9.0, 9.1], baseline, 1, 3).promoted is None
    assert decide(tested, [9.0, 9.1, 9.2], baseline, 1, 3).promoted == 3


def test_noise_of_repeated_runs_and_the_interval_of_a_single_one():
    draw = np.random.default_rng(6)
    covered = 0
    for _ in range(400):
        floor = significance.noise(draw.normal(5, 2, 6))
        assert floor.sd < floor.sd_high
        interval = floor.interval([draw.normal(7, 2)])
        covered += interval.low <= 7 <= interval.high
    assert 0.92 <= covered / 400 <= 0.98
    assert math.isinf(significance.noise([1.0]).interval([2.0]).high)
