"""The random-graph model against a slow reading of its definition, and its laws on simulations."""

import json
import subprocess
import sys
from collections import deque
from pathlib import Path
from random import Random

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson

from entigraph.laws import random_graph
from entigraph.laws.predictions import Model, phases
from entigraph.laws.random_graph import FAR, NEVER, mixture, simulate, simulate_on

ROOT = Path(__file__).resolve().parents[2]


def graph(vertices: int, p: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.random((vertices, vertices)) < p) & ~np.eye(vertices, dtype=bool)


def distances(adjacency: np.ndarray, source: int) -> dict[int, int]:
    """Breadth first, with a queue."""
    found, queue = {source: 0}, deque([source])
    while queue:
        here = queue.popleft()
        for there in np.flatnonzero(adjacency[here]):
            if int(there) not in found:
                found[int(there)] = found[here] + 1
                queue.append(int(there))
    return found


def texts(vertices: int, count: int, seed: int, index: int) -> list[tuple[int, int]]:
    key = random_graph.key(seed, "texts", index)
    source, target = random_graph.texts(vertices, jax.numpy.int32(0), key)
    return list(zip(source[:count].tolist(), target[:count].tolist(), strict=True))


def read_one_by_one(adjacency, parent, drawn):
    """The definition: how many pairs are known before the first text and after each."""
    known = {(int(x), int(y)) for x, y in zip(*np.nonzero(adjacency), strict=True)}
    counts = [len(known)]
    for x, y in drawn:
        while y != x and parent[y, x] >= 0:
            known.add((x, y))
            y = int(parent[y, x])
        counts.append(len(known))
    return np.array(counts)


@pytest.mark.parametrize(
    "vertices, p, seed", [(7, 0.3, 0), (25, 0.08, 1), (40, 0.05, 2), (12, 1, 3)]
)
def test_the_simulation_is_the_definition_text_by_text(vertices, p, seed):
    adjacency = graph(vertices, p, seed)
    paths = random_graph.shortest_paths(adjacency, np.random.default_rng([seed, 0, _ties()]))
    parent, distance = np.asarray(paths.parent), np.asarray(paths.distance)
    for source in range(vertices):
        found = distances(adjacency, source)
        assert [found.get(y, FAR) for y in range(vertices)] == distance[:, source].tolist()
        for y in range(vertices):
            if 0 < distance[y, source] < FAR:  # the last step of a shortest path
                before = parent[y, source]
                assert adjacency[before, y]
                assert distance[before, source] == distance[y, source] - 1
            else:
                assert parent[y, source] == -1
    drawn = texts(vertices, 3000, seed, 0)
    slow = read_one_by_one(adjacency, parent, drawn) / (vertices * (vertices - 1))
    times = np.arange(1, 3001)
    np.testing.assert_allclose(simulate_on(adjacency, times, seed, 0).known, slow[1:], rtol=1e-12)


def _ties() -> int:
    return random_graph._crc("ties")


def test_the_mean_is_that_of_an_independent_simulation_with_paths_of_its_own():
    """Other draws, and at each text a new random choice among the shortest paths."""
    adjacency, vertices = graph(25, 0.09, 5), 25
    random, times = Random(6), np.array([30, 100, 300, 1000])
    reach = [distances(adjacency, x) for x in range(vertices)]
    before = [[int(z) for z in np.flatnonzero(adjacency[:, y])] for y in range(vertices)]
    curves = []
    for _ in range(30):
        known, curve = {tuple(map(int, e)) for e in np.argwhere(adjacency)}, []
        for t in range(1, times[-1] + 1):
            x, y = random.sample(range(vertices), 2)
            while y != x and y in reach[x]:
                known.add((x, y))
                nearer = reach[x][y] - 1
                y = random.choice([z for z in before[y] if reach[x].get(z) == nearer])
            if t in times:
                curve.append(len(known) / (vertices * (vertices - 1)))
        curves.append(curve)
    ours = [simulate_on(adjacency, times, 7, i) for i in range(30)]
    error = np.std(curves, axis=0) / np.sqrt(15)  # of a difference of two means of 30
    # A path that is chosen anew at each text spreads chances a little more: 0.01 is for that.
    assert np.all(abs(np.mean([r.known for r in ours], 0) - np.mean(curves, 0)) < 4 * error + 0.01)
    np.testing.assert_allclose(
        np.mean([r.expected(times) for r in ours], 0), np.mean(curves, 0), atol=0.02
    )


def test_the_expectation_of_a_chain_is_that_by_hand():
    """0 -> 1 -> 2 -> 3: (0, 2) is learnt from two texts, (0, 3) and (1, 3) from one each."""
    adjacency = np.zeros((4, 4), bool)
    adjacency[[0, 1, 2], [1, 2, 3]] = True
    times = np.arange(1, 60)
    run = simulate_on(adjacency, times, 0, 0)
    assert (run.density, run.reachable, run.depth) == (3 / 12, 6 / 12, 3)
    assert run.chances.tolist() == [0, 2, 1]
    expected = (6 - 2 * (11 / 12) ** times - (10 / 12) ** times) / 12
    np.testing.assert_allclose(run.expected(times), expected, rtol=1e-12)


def test_texts_are_uniform_over_ordered_pairs_and_each_graph_has_its_own():
    drawn = texts(5, random_graph.CHUNK, 0, 0)
    counts = np.unique(np.array(drawn) @ [5, 1], return_counts=True)[1]
    assert len(counts) == 20 and all(x != y for x, y in drawn)
    expected = random_graph.CHUNK / 20
    assert np.all(abs(counts - expected) < 5 * np.sqrt(expected))
    assert drawn[:100] != texts(5, 100, 0, 1) != texts(5, 100, 1, 1)


def test_more_texts_continue_the_same_run_and_the_first_is_kept_across_chunks():
    adjacency, chunk = graph(300, 0.01, 0), random_graph.CHUNK
    short = simulate_on(adjacency, np.array([10, chunk - 1]), 3, 0)
    long = simulate_on(adjacency, np.array([10, chunk - 1, 2 * chunk]), 3, 0)
    assert long.known[:2].tolist() == short.known.tolist() and long.known[2] > long.known[1]
    first = np.asarray(random_graph.first_texts(300, 2 * chunk, random_graph.key(3, "texts", 0)))
    assert np.array_equal(np.diag(first), np.full(300, NEVER))
    assert chunk < first[first < NEVER].max() <= 2 * chunk


@settings(max_examples=20)
@given(
    vertices=st.sampled_from([40, 120]),
    lam=st.floats(1.3, 9),
    seed=st.integers(0, 2**31 - 1),
)
def test_bounds_of_a_graph_hold_on_its_simulation(vertices, lam, seed):
    """With the graph's own density p' and share C' of pairs still to learn,

        p' + C' (1 - (1 - 1/N)^t)  <=  E known(t)  <=  p' + C' (1 - (1 - (D - 1)/N)^t)

    holds with no slack: a pair has one chance at least, and on average, as a text teaches at most
    D - 1 new pairs, at most D - 1; the rest is convexity. One simulation may leave its expectation;
    it is given six standard deviations, from above: known pairs vary together only along a path,
    so that their number has a variance of 2 D C' N at most.
    """
    pairs = vertices * (vertices - 1)
    times = np.unique(np.geomspace(1, 8 * pairs, 60).astype(int))
    run = simulate(vertices, lam / vertices, times, seed, 0)
    left = run.reachable - run.density
    low = run.density + left * (1 - (1 - 1 / pairs) ** times)
    high = run.density + left * (1 - (1 - max(1, run.depth - 1) / pairs) ** times)
    expected = run.expected(times)
    assert np.all(low - 1e-9 <= expected) and np.all(expected <= high + 1e-9)
    slack = 6 * np.sqrt(2 * run.depth * left / pairs) + 1e-9
    assert np.all(abs(run.known - expected) <= slack)
    assert np.all(low - slack <= run.known) and np.all(run.known <= high + slack)


@settings(max_examples=5)
@given(lam=st.floats(3, 6), seed=st.integers(0, 2**31 - 1))
def test_bounds_of_the_model_hold_within_a_tenth_on_a_thousand_entities(lam, seed):
    """The asymptotic ones, for all t at e = 0.1 and with V of 1,000:

    (1 - e)(p + C (1 - C_LB^t))  <=  known(t)  <=  (1 + e)(p + C (1 - C_UB^t))

    One standard deviation of the number of relations is 2%, of the share of reachable pairs 1.4%
    (with lam = 2 it would be 4%).
    """
    model = Model(1000, lam / 1000)
    times = np.unique(np.geomspace(1, 4 * model.pairs, 60).astype(int))
    known = simulate(1000, model.p, times, seed, 0).known
    assert np.all(model.low(times, 0.1) <= known) and np.all(known <= model.high(times, 0.1))
    assert model.slack(times, known) <= 0.1


def test_the_slack_is_the_least_epsilon_with_which_the_bounds_hold():
    model, times = Model(100, 0.03), np.arange(1, 2000, 50)
    for known in (0.9 * model.low(times, 0), 1.3 * model.high(times, 0.0)):
        e = model.slack(times, known)
        assert e > 0.01
        assert np.all(model.low(times, e + 1e-6) <= known)
        assert np.all(known <= model.high(times, e + 1e-6))
        assert np.any(model.low(times, e - 1e-3) > known) or np.any(
            known > model.high(times, e - 1e-3)
        )
    assert model.slack(times, model.low(times, 0.0)) < 1e-6


def test_constants_of_the_model_are_those_by_hand():
    model = Model(100, 0.03)
    assert model.rho == pytest.approx(0.0595202, abs=1e-6)
    assert model.rho == pytest.approx(np.exp(model.lam * (model.rho - 1)))
    assert model.reachable == pytest.approx((1 - model.rho) ** 2)
    assert model.c_low == 1 - 1 / 9900
    assert model.c_high(0.1) == pytest.approx(1 - 1.1 * np.log(100) / np.log(3) / 9900)


def test_families_of_the_infinite_tree_are_those_of_a_branching_process():
    """mu by its generating function, g_l = z exp(lam (g_{l-1} - 1)) at one z, and mu(1), mu(2) by
    hand: leaves, and members with no child or a single one that has none.
    """
    model = Model(2000, 0.001)
    z, g, total = np.exp(-0.05), 1.0, 0.0
    for level in range(60):
        g = z * np.exp(2 * (g - 1)) if level else z
        total += 0.5 ** (level + 1) * g
    assert model.branching @ z ** np.arange(2001) == pytest.approx(total, abs=1e-5)
    assert model.branching.sum() == pytest.approx(1)
    assert model.branching[1] == pytest.approx(0.5 + 0.5 * poisson.pmf(0, 2), abs=1e-5)
    single = 0.25 * poisson.pmf(1, 2) + 0.25 * poisson.pmf(1, 2) * poisson.pmf(0, 2)
    assert model.branching[2] == pytest.approx(single, abs=1e-5)


@pytest.mark.parametrize("vertices, lam", [(100, 3.0), (300, 2.0), (300, 5.0)])
def test_the_mixture_of_the_finite_tree_is_the_simulation(vertices, lam):
    """Without a graph, to 1.5 points beside what the means of 12 graphs leave uncertain."""
    model = Model(vertices, lam / vertices)
    times = np.unique(np.geomspace(1, 8 * model.pairs, 100).astype(int))
    runs = [simulate(vertices, model.p, times, 11, i) for i in range(12)]
    share = [(r.known - r.density) / (r.reachable - r.density) for r in runs]
    ours = mixture(model.finite, model.pairs, times)
    np.testing.assert_allclose(ours, np.mean(share, axis=0), atol=0.015)
    known = np.mean([r.known for r in runs], axis=0)
    reachable = [r.reachable for r in runs]
    error = 4 * np.std(reachable) / np.sqrt(12)
    np.testing.assert_allclose(model.finite_curve(times), known, atol=0.015 + error)


def test_three_phases_are_found_where_they_are():
    times = np.unique(np.geomspace(1, 1e5, 240).astype(int))
    t = times.astype(float)
    slope = 0.2 / 500  # 0.2 at 500, then 0.2 a factor of e, then flat from 20,000
    curve = 0.1 + np.where(t < 500, slope * t, 0.2 * (1 + np.log(np.minimum(t, 20_000) / 500)))
    cut = phases(times, curve)
    assert cut.found
    assert cut.first == pytest.approx(500, rel=0.1) and cut.second == pytest.approx(20_000, rel=0.1)


@pytest.mark.parametrize("law", [np.log, np.sqrt, lambda t: t])
def test_no_phases_are_found_in_a_curve_that_has_but_one(law):
    times = np.unique(np.geomspace(1, 1e5, 240).astype(int))
    assert not phases(times, law(times.astype(float))).found


def test_the_middle_phase_of_the_model_is_longer_than_that_of_one_exponential():
    model = Model(100, 0.03)
    times = np.unique(np.geomspace(1, 8 * model.pairs, 240).astype(int))
    known = np.mean([simulate(100, 0.03, times, 0, i).known for i in range(10)], axis=0)
    model_cut, single = phases(times, known), phases(times, model.low(times, 0.0))
    assert model_cut.found
    assert model_cut.spans[1] > 2 * single.spans[1]


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "entigraph.theory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_command_writes_results_and_a_picture_the_same_each_time(tmp_path):
    for name in ("a", "b"):
        done = run(f"--output={tmp_path / name}", "--vertices=60", "--p=0.05", "--seeds=3")
        assert done.returncode == 0, done.stderr
    assert "lambda 3" in done.stdout and "log-linear to" in done.stdout
    a, b = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("a", "b"))
    assert {k for k in a if a[k] != b[k]} <= {"wall_s", "cpu_s"}
    assert a["steps"] == 8 * 60 * 59 == a["texts"][-1]
    assert a["phases"]["found"] and a["largest_error"]["expected"] < 0.02
    pictures = [(tmp_path / name / "theory.png").read_bytes() for name in ("a", "b")]
    assert pictures[0] == pictures[1] and pictures[0].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "flags, said",
    [
        ([], "--output is missing"),
        (["--output=x", "--p=0.01"], "--p=0.01: must lie between 1/vertices = 0.01"),
        (["--output=x", "--vertices=2"], "--vertices=2: must be from 5"),
        (["--output=x", "--steps=5"], "--steps=5: must be from 100"),
        (["--output=x", "--seeds=0"], "--seeds=0"),
    ],
)
def test_a_mistake_is_one_line(flags, said):
    done = run(*flags)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1
