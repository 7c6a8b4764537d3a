"""What the best so far is compared with: right on paper, and against plain simulation."""

import random
import statistics

import pytest

from research_env.dashboard.comparisons import compare
from research_env.dashboard.figures import counted, figures, seconds_left
from research_env.dashboard.snapshot import Row, Snapshot
from research_env.outcome import State

EMPTY = Row(0, "", "ok", None, 0.0, 0, 0.0, "", "baseline", "", (), 0.0, 0.0, False, "")


def searched(scores, noise=0.1, baseline=1.0, direction="maximize", kind="fresh", **meta):
    """Ideas that ended one after the other; None is a failed one."""
    rows = [EMPTY._replace(score=baseline)]
    for i, score in enumerate(scores, 1):
        state = "ok" if score is not None else State.CRASHED.value
        rows.append(rows[0]._replace(id=i, kind=kind, score=score, state=state, finished=10.0 * i))
    facts = {"direction": direction, "noise": noise, "baseline": {"search": baseline}}
    return Snapshot(rows, [], facts | meta, now=10.0 * len(scores), running=True)


def test_the_best_so_far_begins_at_the_baseline_and_only_gets_better():
    found = compare(searched([0.9, 1.2, None, 1.1, 1.3]))
    assert [(step.n, step.score, step.row.id) for step in found.steps] == [(2, 1.2, 2), (5, 1.3, 5)]
    found = compare(searched([0.9, 1.2, None, 0.95, 0.8], direction="minimize"))
    assert [(step.n, step.score) for step in found.steps] == [(1, 0.9), (5, 0.8)]


def test_luck_alone_is_the_best_of_n_draws_of_noise():
    n, noise = 64, 0.1
    band = compare(searched([1.0] * n, noise)).luck
    draw = random.Random(0)
    best = sorted(max(draw.gauss(1.0, noise) for _ in range(n)) for _ in range(4000))
    assert band.n[-1] == n and band.middle[0] == pytest.approx(1.0)
    assert band.middle[-1] == pytest.approx(statistics.median(best), abs=0.005)
    assert band.high[-1] == pytest.approx(best[int(0.975 * len(best))], abs=0.01)
    assert band.low[-1] == pytest.approx(best[int(0.025 * len(best))], abs=0.01)


def test_best_of_n_is_that_of_the_fresh_ideas_where_a_failed_one_leaves_the_baseline():
    draw = random.Random(1)
    fresh = [None if draw.random() < 0.3 else draw.gauss(1.0, 0.1) for _ in range(40)]
    rows = searched([*fresh, *[1.5] * 40])
    late = [row._replace(kind="exploit") if row.id > 40 else row for row in rows.rows]
    band = compare(rows._replace(rows=late)).best_of_n
    best = sorted(
        max(1.0, *(x if (x := draw.choice(fresh)) is not None else 1.0 for _ in range(5)))
        for _ in range(4000)
    )
    assert band.middle[4] == pytest.approx(statistics.median(best), abs=0.02)
    assert band.n == list(range(1, 41)) and band.low[0] == 1.0
    assert band.high[-1] == max(x for x in fresh if x is not None)


def test_a_search_that_is_best_of_n_is_not_compared_with_itself():
    assert compare(searched([1.0, 1.1] * 20)).best_of_n is None


@pytest.mark.parametrize("noise", [None, 0.0])
def test_without_noise_there_is_no_interval_and_no_luck(noise):
    found = compare(searched([1.0, 1.2], noise))
    assert found.luck is None and not found.error


def test_mirrored_scores_have_mirrored_comparisons():
    draw = random.Random(2)
    scores = [draw.gauss(1.0, 0.2) for _ in range(30)]
    up = compare(searched(scores))
    down = compare(searched([-x for x in scores], baseline=-1.0, direction="minimize"))
    assert [step.n for step in up.steps] == [step.n for step in down.steps]
    assert up.luck.middle == pytest.approx([-x for x in down.luck.middle])
    assert up.luck.high == pytest.approx([-x for x in down.luck.low])


def test_what_is_left_follows_the_pace_of_the_last_ideas_and_the_cap():
    one = searched([1.0] * 10, budget={"ideas": 30})
    assert seconds_left(one) == pytest.approx(200.0)
    assert seconds_left(one._replace(now=190.0)) == pytest.approx(400.0)  # it has become slower
    capped = searched([1.0] * 10, budget={"ideas": 30, "seconds": 180}, spent_seconds=100.0)
    assert seconds_left(capped) == pytest.approx(80.0)
    assert seconds_left(one._replace(running=False)) is None
    assert seconds_left(searched([1.0] * 10, budget={"ideas": 30}, phase="final")) is None


def test_every_idea_is_counted_in_one_state_and_the_baseline_in_none():
    assert counted(searched([1.0, None, 1.2])) == {"ok": 2, "crashed": 1}


def test_the_figures_are_what_the_page_shows():
    snapshot = searched([0.9, 1.2, None])
    found = figures(snapshot, compare(snapshot))
    assert (found["best"], found["baseline"], found["ended"]) == (1.2, 1.0, 3)
    assert found["best_interval"] == pytest.approx([1.2 - 0.196, 1.2 + 0.196], abs=1e-3)
    assert found["best_so_far"] == [[2, 1.2, 2]]
    assert [idea["id"] for idea in found["best_ideas"]] == [2, 1]
