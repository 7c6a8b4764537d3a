"""Results of several models as one curve."""

import json

import numpy as np
import pytest

from entigraph.evaluation import results
from entigraph.evaluation.outcomes import Outcome, write
from entigraph.evaluation.questions import Article, Question
from entigraph.laws.scaling_points import read_points, report
from entigraph.library import Text
from sbp_jax import files
from sbp_jax.errors import UserError

OPTIONS = ("a", "b", "c", "d")
ARTICLES = [
    Article(
        Text(f"id{a}", f"Tale {a}", "", "", ""),
        tuple(Question(f"{a}-{n}", f"{a}-{n}?", OPTIONS, 0) for n in range(10)),
    )
    for a in range(20)
]


def evaluated(folder, share, articles=ARTICLES):
    draw = np.random.default_rng(0)
    outcomes = [
        Outcome(q, a.text.id, 0 if draw.random() < share else 1)
        for a in articles
        for q in a.questions
    ]
    entry = write(folder, "closed_book", articles, outcomes)
    told = {"model": "m", "engine": "api", "name": folder.name}
    files.write_json(
        folder / "results.json", results.assemble(told, {"closed_book": entry}, folder, 0)
    )
    return f"{folder}"


def test_the_curve_is_of_the_results(tmp_path, capsys):
    tokens = [0, 1e6, 1e7, 1e8]
    shares = [0.3, 0.4, 0.5, 0.6]
    spec = ",".join(
        f"{t:g}:{evaluated(tmp_path / str(i), s)}"
        for i, (t, s) in enumerate(zip(tokens, shares, strict=True))
    )
    points, task = read_points(spec)
    assert task == "closed_book" and list(points.tokens) == [0, 1, 10, 100]
    for folder, accuracy in zip("0123", points.accuracy, strict=True):
        recorded = json.loads((tmp_path / folder / "results.json").read_text())
        value = recorded["tasks"]["closed_book"]["metrics"]["accuracy"]["value"]
        assert accuracy == pytest.approx(100 * value)
    report(spec, tmp_path / "curve", seed=0)
    record = json.loads((tmp_path / "curve" / "scaling.json").read_text())
    slope = record["laws"]["log_linear"]["parameters"]["b"]
    for accuracy, (low, high) in zip(
        record["accuracy_percent"], record["accuracy_intervals"], strict=True
    ):
        assert 0 < low < accuracy < high < 100
    assert list(points.groups[:11]) == ["id0"] * 10 + ["id1"]
    assert slope["low"] < slope["value"] < slope["high"] and 3 < slope["value"] < 6
    assert (tmp_path / "curve" / "scaling.png").stat().st_size > 1000
    assert "log-linear" in capsys.readouterr().out


def test_what_cannot_be_one_curve_is_refused(tmp_path):
    one, other = evaluated(tmp_path / "a", 0.5), evaluated(tmp_path / "b", 0.5, ARTICLES[1:])
    with pytest.raises(UserError, match="b has answers to other questions"):
        read_points(f"0:{one},1e6:{other}")
    (tmp_path / "a" / "outcomes" / "closed_book.jsonl").write_text("{}")
    with pytest.raises(UserError, match="not what results.json was made of"):
        read_points(f"0:{one},1e6:{one}")
    with pytest.raises(UserError, match="no TOKENS:FOLDER"):
        read_points("runs/a")
