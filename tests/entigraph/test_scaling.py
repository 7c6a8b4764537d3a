"""Fits of accuracy against tokens: known laws are found again, and intervals mean what they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entigraph.laws.exponentials import mixture
from entigraph.scaling import PAPER, Points, fit, plot
from sbp_jax.errors import UserError
from sbp_jax.evaluation.scores import Score

# The model before and ten halvings of the paper's corpus.
TOKENS = np.append(0.0, 455 / 2.0 ** np.arange(9, -1, -1))
QUESTIONS = 4609


def asked(accuracy: np.ndarray, seed: int, questions: int = QUESTIONS) -> np.ndarray:
    """Answers of that accuracy, in percent, to the same questions, some of them hard throughout."""
    random = np.random.default_rng(seed)
    hardness = random.random(questions)
    shifted = (hardness + 0.3 * random.random((len(accuracy), questions))) % 1
    return (shifted < accuracy[:, None] / 100).astype(np.uint8)


def test_the_papers_constants_are_recovered_from_its_curve():
    law = fit(Points(TOKENS, mixture(PAPER, TOKENS)), resamples=1)["mixture"]
    np.testing.assert_allclose(law.parameters, PAPER, rtol=1e-5)
    assert law.rmse < 1e-6


def test_the_papers_constants_are_recovered_from_accuracies_with_two_decimals():
    law = fit(Points(TOKENS, mixture(PAPER, TOKENS).round(2)), resamples=1)["mixture"]
    a, b1, r1, b2, r2, b3, r3 = law.parameters
    assert [a, b1, b2, b3] == pytest.approx([64.5456, 13.8352, 8.4705, 3.932], abs=0.05)
    assert r1 == pytest.approx(0.9989, abs=1e-4)
    assert [r2, r3] == pytest.approx([0.8961, 0.0546], abs=3e-3)


def test_with_the_papers_number_of_questions_the_curve_is_recovered_and_intervals_hold_constants():
    """The constants alone are not: seven of them, from eleven points with errors of 0.7."""
    grid, inside, of = np.linspace(0, 455, 300), 0, 0
    for seed in range(4):
        answers = asked(mixture(PAPER, TOKENS), seed)
        points = Points(TOKENS, 100 * answers.mean(axis=1), answers)
        law = fit(points, resamples=60, seed=seed)["mixture"]
        assert np.max(abs(law(grid) - mixture(PAPER, grid))) < 2.5
        for (low, high), true in zip(
            [(e.low, e.high) for e in law.estimates.values()], PAPER, strict=True
        ):
            inside, of = inside + (low <= true <= high), of + 1
    assert inside / of > 0.8


def test_the_log_linear_law_is_the_least_squares_line_without_the_model_before():
    x = np.array([0, 1, 10, 100])
    laws = fit(Points(x, [20, 40, 43, 46]), resamples=50)
    a, b = laws["log_linear"].parameters
    assert (a, b) == (pytest.approx(40), pytest.approx(3 / np.log(10)))
    assert laws["log_linear"](1000) == pytest.approx(49)
    assert list(laws) == ["log_linear", "mixture"] and len(laws["mixture"].parameters) == 3


def test_intervals_of_a_line_are_those_of_the_textbook():
    x, error = np.geomspace(1, 512, 10), np.full(10, 0.7)
    y = 40 + 2 * np.log(x)
    slope = fit(Points(x, y, stderr=error), terms=1, resamples=2000)["log_linear"].estimates["b"]
    known = 1.96 * 0.7 / np.sqrt(np.sum((np.log(x) - np.log(x).mean()) ** 2))
    assert slope.high - slope.value == pytest.approx(known, rel=0.1)
    assert slope.value - slope.low == pytest.approx(known, rel=0.1)


def test_questions_that_are_hard_throughout_widen_the_level_and_not_the_slope():
    """All points are of the same questions, so their errors are shared."""
    x = np.geomspace(1, 256, 9)
    right = np.tile(np.arange(1000) % 2, (9, 1))
    estimates = fit(Points(x, 100 * right.mean(1), right), terms=1, resamples=300)[
        "log_linear"
    ].estimates
    assert estimates["a"].high - estimates["a"].low == pytest.approx(2 * 1.96 * 1.58, rel=0.15)
    assert estimates["b"].high - estimates["b"].low < 1e-9


def test_questions_of_an_article_are_one_measurement():
    """Ten questions that stand or fall together are worth one, however many points ask them."""
    x, points, articles = np.geomspace(1, 256, 9), 9, 80
    right = (np.random.default_rng(0).random((points, articles)) < 0.5).repeat(10, axis=1)
    named = [f"article {i}" for i in range(articles) for _ in range(10)]
    y = 100 * right.mean(axis=1)
    apart, together = Points(x, y, right), Points(x, y, right, named)
    once = Points(x, y, right[:, ::10])
    assert together.spread == pytest.approx(once.spread)
    assert together.spread / apart.spread == pytest.approx(np.full(points, 10**0.5), rel=0.02)
    widths = []
    for measured in (apart, together):
        slope = fit(measured, terms=1, resamples=400)["log_linear"].estimates["b"]
        widths.append(slope.high - slope.low)
    assert widths[1] / widths[0] == pytest.approx(10**0.5, rel=0.2)


def test_articles_with_more_questions_count_more():
    asked = [1, 2, 3, 14]
    answers = np.array(
        [np.repeat(row, asked) for row in ([0, 0, 0, 1], [1, 1, 1, 0], [0, 1, 0, 1])]
    )
    named = np.repeat(["a", "b", "c", "d"], asked)
    points = Points([1, 2, 4], 100 * answers.mean(axis=1), answers, named)
    for row, stderr in zip(answers, points.spread, strict=True):
        values = np.array([row[named == name].sum() for name in "abcd"], float)
        assert stderr == pytest.approx(100 * Score(values, np.array(asked, float)).stderr)


@pytest.mark.parametrize("share", [0, 1])
def test_all_right_or_none_is_no_certainty(share):
    """Of 40 articles, Wilson's interval of that many questions; no draw is beyond 0 or 100."""
    answers = np.full((3, 200), share)
    named = np.arange(200) // 5
    points = Points([1, 10, 100], [100 * share] * 3, answers, named)
    low, high = points.intervals
    assert high - low == pytest.approx(np.full(3, 8.76), abs=0.01)
    assert np.all((low >= 0) & (high <= 100))
    law = fit(points, resamples=400)["log_linear"]
    slope = law.estimates["b"]
    assert slope.low < 0 < slope.high
    drawn = points.resampled(points.y, 2, 400, np.random.default_rng(0))
    assert drawn.min() >= 0 and drawn.max() <= 100 and np.ptp(drawn) > 5


def test_criterion_prefers_the_law_that_made_the_points():
    random, noise = np.random.default_rng(0), 0.2
    x = np.geomspace(0.5, 500, 14)
    line = fit(Points(x, 40 + 2 * np.log(x) + noise * random.standard_normal(14)), resamples=1)
    assert line["log_linear"].aicc < line["mixture"].aicc
    bent = 55 - 15 * 0.95**x + noise * random.standard_normal(14)
    curve = fit(Points(x, bent), terms=1, resamples=1)
    assert curve["mixture"].aicc < curve["log_linear"].aicc
    assert curve["mixture"].parameters == pytest.approx([55, 15, 0.95], rel=0.03)


@settings(max_examples=12)
@given(
    a=st.floats(40, 90),
    b=st.tuples(st.floats(3, 15), st.floats(3, 15)),
    rates=st.tuples(st.floats(0.005, 0.02), st.floats(0.2, 1.0)),
)
def test_two_terms_are_found_wherever_they_are(a, b, rates):
    true = np.array([a, b[0], np.exp(-rates[0]), b[1], np.exp(-rates[1])])
    law = fit(Points(TOKENS, mixture(true, TOKENS)), terms=2, resamples=1)["mixture"]
    np.testing.assert_allclose(law.parameters, true, rtol=1e-3)


def test_a_falling_curve_is_no_failure_and_gets_a_flat_mixture():
    x = np.geomspace(1, 256, 9)
    laws = fit(Points(x, 50 - 2 * np.log(x)), resamples=20)
    assert laws["log_linear"].parameters[1] == pytest.approx(-2)
    assert np.ptp(laws["mixture"](x[2:])) < 0.1


def test_fits_are_the_same_each_time_and_records_are_plain(tmp_path):
    import json

    answers = asked(mixture(PAPER, TOKENS), 0, 300)
    points = Points(TOKENS.tolist(), (100 * answers.mean(axis=1)).tolist(), answers)
    records = [
        json.dumps({n: law.record() for n, law in fit(points, 2, 30).items()}) for _ in range(2)
    ]
    assert records[0] == records[1] and "NaN" not in records[0] and "Infinity" not in records[0]
    laws = fit(points, 2, 30)
    low, high = laws["mixture"].band(TOKENS)
    assert np.all(low <= high) and low.shape == TOKENS.shape
    plot(points, laws, tmp_path / "deep" / "scaling.png")
    assert (tmp_path / "deep" / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments, terms, said",
    [
        (([1, 2], [40, 41]), None, "three points"),
        (([1, 2, 2], [40, 41, 42]), None, "same tokens"),
        (([1, 2, -3], [40, 41, 42]), None, "not negative"),
        (([1, 2, 3], [40, np.nan, 42]), None, "must be numbers"),
        (([1, 2, 3], [40, 41, 42], np.zeros((2, 9))), None, "a row for each point"),
        (([1, 2, 3], [40, 41, 42], np.zeros((3, 9)), ["a"] * 8), None, "an article for each"),
        (([1, 2, 3], [40, 41, 42], None, ["a"] * 9), None, "an article for each"),
        (([0, 1, 2, 3, 4], [40, 41, 42, 43, 44]), 2, "5 points do not determine 2 terms"),
    ],
)
def test_points_that_say_nothing_are_refused(arguments, terms, said):
    with pytest.raises(UserError, match=said):
        fit(Points(*arguments), terms)


def test_three_points_get_a_line_alone_and_no_criterion():
    laws = fit(Points([1, 2, 4], [40, 41, 42]), resamples=5)
    assert list(laws) == ["log_linear"] and laws["log_linear"].record()["aicc"] is None
