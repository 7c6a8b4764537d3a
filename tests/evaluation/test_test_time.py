"""Scaling curves with known points, from a scripted model; and that a real one goes through."""

import itertools
import json
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbp_jax.config import MeshConfig, ModelConfig
from sbp_jax.data.tokenizer import train_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.evaluation import majority, test_time
from sbp_jax.evaluation.test_time import Problem, Settings, parse, read_problems, run
from sbp_jax.inference.engine import Completion
from sbp_jax.inference.sampler import Sampler
from sbp_jax.model import transformer
from sbp_jax.parallel import make_mesh

pytest.importorskip("math_verify")


class Scripted:
    """Thinks for as many tokens as its prompt says, and as many again at each "Wait"; its answer is
    right when it has thought enough. Drawn at a temperature, its answers are the prompt's in turn.

        LENGTH ENOUGH RIGHT | DRAWN DRAWN ...:
    """

    tokenizer, fingerprint = None, "scripted"

    def __init__(self):
        self.drawn = {}

    def generate(self, requests):
        return map(self.answer, requests)

    def answer(self, request):
        asked, _, so_far = request.prompt.partition(":")
        known, _, drawn = asked.partition("|")
        length, enough, right = known.split()
        if length == "refused":
            return Completion(request.id, "", "error", error="too long")
        if "Answer" not in so_far:
            wanted = int(length) - so_far.rpartition("Wait")[2].count(".")
            count = min(wanted, request.sampling.max_tokens)
            ended = "stop" if wanted < request.sampling.max_tokens else "length"
            return Completion(request.id, "." * count, ended, new_tokens=count)
        said = right if so_far.count(".") >= int(enough) else "wrong"
        if request.sampling.temperature:
            turns = self.drawn.setdefault(asked, itertools.cycle(drawn.split()))
            said = next(turns)
        return Completion(request.id, f" {said}.", "stop", new_tokens=3)


PROBLEMS = [
    Problem("a", "10 10 0.5 | 7 1/2 0.5 8:", "\\frac12"),
    Problem("b", "30 20 12 | 12 12 13 none:", "12"),
    Problem("c", "100 90 x+y | y+x z z 3:", "x+y"),
    Problem("d", "100 999 1 | 2 2 2 2:", "1"),
]


def points(found, curve, *names):
    return [tuple(point[name] for name in names) for point in found[curve]["points"]]


def test_limits_and_waits_have_the_curves_that_the_script_says():
    found = run(Scripted(), PROBLEMS, parse("max=8+20+100,min=10"))
    # Of thinking for 10, 30, 100 and 100 tokens, cut at the limit; the first is right from 10 on.
    expected = [(8, 8.0, 0.0, 0.0), (20, 17.5, 0.5, 1.0), (100, 60.0, 0.75, 1.0)]
    names = ("max", "thinking_tokens", "accuracy", "control")
    assert points(found, "sequential", *names) == expected
    slopes = [0.5 / 9.5, 0.75 / 52, 0.25 / 42.5]
    assert found["sequential"]["scaling"] == pytest.approx(np.mean(slopes))
    assert found["sequential"]["performance"] == 0.75
    assert found["sequential"]["control"] == pytest.approx(2 / 3)
    assert [p[0] for p in points(found, "sequential", "cut")] == [1, 0.75, 0.5]
    errors = [p[0] for p in points(found, "sequential", "stderr")]
    assert errors == pytest.approx([0, math.sqrt(1 / 3) / 2, 0.25])
    assert "parallel" not in found and json.loads(json.dumps(found))["problems"] == 4


def test_waiting_uses_more_tokens_and_is_right_more_often():
    found = run(Scripted(), PROBLEMS[:2], parse("max=99,waits=0+1+9"))
    names = ("waits", "thinking_tokens", "waited", "cut")
    # The second is cut off in its fourth round.
    assert points(found, "sequential", *names) == [
        (0, 20, 0, 0), (1, 40, 1, 0), (9, 99, 6, 1)
    ]  # fmt: skip
    hard = [Problem("a", "10 25 5:", "5")]
    found = run(Scripted(), hard, parse("max=64,waits=0+1+2"))
    assert [p[0] for p in points(found, "sequential", "accuracy")] == [0, 0, 1]
    assert found["sequential"]["scaling"] == pytest.approx((0 + 1 / 20 + 1 / 10) / 3)
    assert found["sequential"]["points"][0]["stderr"] is None


def test_equal_answers_vote_together_however_they_are_spelt():
    found = run(Scripted(), PROBLEMS, parse("max=50,votes=1+2+3+4"))
    each = [
        [1 / 2, 1 / 2, 2 / 3, 1],  # two of four are right, in two spellings
        [
            1 / 2,
            2 / 3,
            3 / 4,
            1,
        ],  # two of four; "none" is an answer, which nothing else is equal to
        [1 / 4, 1 / 4, 1 / 4 / 3, 0],  # one of four, against two that are equal
        [0, 0, 0, 0],
    ]
    each[1][1] = (1 + 4 * 1 / 2 + 0) / 6
    each[1][2] = (1 + 1 + 1 / 3 + 1 / 3) / 4
    each[2][1] = (3 * 1 / 2) / 6
    each[2][2] = (0 + 1 / 3 + 1 / 3 + 0) / 4
    curve = points(found, "parallel", "votes", "accuracy", "thinking_tokens")
    for i, (votes, accuracy, tokens) in enumerate(curve):
        assert votes == i + 1 and tokens == votes * (10 + 30 + 50 + 50) / 4
        assert accuracy == pytest.approx(np.mean([row[i] for row in each]))
    assert found["parallel"]["performance"] == max(a for _, a, _ in curve)
    assert found["parallel"]["scaling"] == pytest.approx(
        np.mean([(b[1] - a[1]) / (b[2] - a[2]) for a, b in itertools.combinations(curve, 2)])
    )


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=6), st.integers(1, 6), st.integers(0, 3))
def test_the_accuracy_of_fewer_votes_is_the_mean_over_all_that_could_have_voted(
    candidates, voters, right
):
    voters = min(voters, len(candidates))
    votes = majority.Votes(candidates, [c == right for c in candidates])
    outcomes = []
    for subset in itertools.combinations(candidates, voters):
        voting = [c for c in subset if c >= 0]
        most = [c for c in set(voting) if voting.count(c) == max(map(voting.count, voting))]
        outcomes.append(most.count(right) / len(most) if most else 0)
    found = majority.accuracy(votes, voters, np.random.default_rng(0))
    assert found == pytest.approx(np.mean(outcomes))


def test_too_many_subsets_are_sampled_without_a_bias():
    votes = majority.Votes([0] * 9 + [1] * 11, [True] * 9 + [False] * 11)
    of = [math.comb(9, n) * math.comb(11, 7 - n) for n in range(8)]
    expected = sum(of[4:]) / sum(of)
    found = [majority.accuracy(votes, 7, np.random.default_rng(seed)) for seed in range(5)]
    error = math.sqrt(expected * (1 - expected) / (5 * majority.SUBSETS))
    assert abs(np.mean(found) - expected) < 4 * error
    assert found[0] == majority.accuracy(votes, 7, np.random.default_rng(0)) != found[1]


def test_what_is_refused_is_wrong_and_is_told():
    problems = [Problem("a", "refused 1 1 | 1:", "1"), Problem("b", "3 1 1 | 1:", "1")]
    found = run(Scripted(), problems, parse("max=8,votes=1"))
    names = ("accuracy", "control", "errors")
    assert points(found, "sequential", *names) == [(0.5, 0.5, 1)]
    assert points(found, "parallel", "accuracy", "errors") == [(0.5, 1)]
    assert found["error_examples"] == ["too long"] * 2
    assert "2 texts failed and count as wrong; the first: too long." in test_time.markdown(found)


def test_where_every_text_fails_there_is_no_curve():
    with pytest.raises(UserError, match="each of 1 texts failed, the first with: too long"):
        run(Scripted(), [Problem("a", "refused 1 1 | 1:", "1")], parse("max=8"))


def test_the_table_has_every_point_and_the_metrics():
    found = run(Scripted(), PROBLEMS, parse("max=8+20,votes=1+4"))
    lines = test_time.markdown(json.loads(json.dumps(found))).splitlines()
    assert lines[0] == "4 problems; accuracy in percent, with standard errors."
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    assert [line for line in cells if not line[0].startswith("---")] == [
        ["in sequence", "thinking tokens", "accuracy", "control", "cut off", "waits"],
        ["max 8, waits 0", "8.0", "0.0 ± 0.0", "100.0", "100.0", "0.00"],
        ["max 20, waits 0", "17.5", "50.0 ± 28.9", "100.0", "75.0", "0.00"],
        ["in parallel", "thinking tokens", "accuracy"],
        ["1 votes", "17.5", "31.2 ± 12.0"],
        ["4 votes", "70.0", "50.0 ± 28.9"],
        ["", "control", "scaling, points for 1,000 tokens", "performance"],
        ["in sequence", "100.0", "+5263.16", "50.0"],
        ["in parallel", "", "+357.14", "50.0"],
    ]


def test_a_real_model_goes_through_and_gives_the_same_again(tmp_path):
    texts = ["Problem: 3 and 4?\n\nSolution: 3+4 is 7.\nFinal Answer: 7\n"] * 40
    tokenizer = train_tokenizer(texts, 290, tmp_path)
    model = ModelConfig(
        num_layers=1, d_model=16, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=16, vocab_size=290
    )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    sampler = Sampler(
        model, transformer.init_params(model, 0), tokenizer, max_length=64, batch_size=8, mesh=mesh
    )
    problems = [Problem(str(i), f"Problem: {i} and 4?\n\nSolution:", str(i + 4)) for i in range(3)]
    settings = parse("max=8+12,waits=1,votes=1+2,answer=4")
    found = run(sampler, problems, settings)
    assert [p["thinking_tokens"] <= p["max"] for p in found["sequential"]["points"]] == [True] * 2
    assert found == run(sampler, problems, settings)
    assert found["sequential"]["points"][0]["errors"] == 0


class TestFlag:
    def test_fields_are_numbers_with_plus_between_them(self):
        assert parse("max=512,waits=0+2+4,votes=16+1+4") == Settings(
            (512,), 0, (0, 2, 4), 64, "plain", (1, 4, 16), 16
        )
        assert parse("") == Settings()
        given = parse("max=9+8, min=1,style=think,answer=3,votes=2,samples=9,temperature=0.5")
        assert given == Settings((8, 9), 1, (0,), 3, "think", (2,), 9, 0.5)

    @pytest.mark.parametrize(
        "text, reason",
        [
            ("max", "'max' is no field"),
            ("max=1,max=2", "'max=2' is no field, or there twice"),
            ("most=3", "'most=3' is not known"),
            ("max=a+1", "'a' is not a number"),
            ("max=-1", "'-1' is not a number"),
            ("votes=4,samples=2", "4 votes of 2 samples"),
            ("samples=2", "samples without votes"),
            ("votes=0", "0 votes of 0 samples"),
            ("votes=2,temperature=0", "votes at temperature 0"),
            ("votes=2,temperature=nan", "votes at temperature"),
            ("temperature=x", "could not convert"),
            ("style=other", "'style=other' is not known"),
            ("max=8,min=9", "min is more than max"),
        ],
    )
    def test_a_mistake_is_told_with_the_grammar(self, text, reason):
        with pytest.raises(UserError) as raised:
            parse(text)
        told = str(raised.value)
        assert told.startswith(f"--budget_forcing={text}: {reason}") and "\n" not in told
        assert told.endswith("max=512+1024,waits=0+2+4,votes=1+4+16")


class TestProblems:
    def read(self, tmp_path, *rows):
        path = tmp_path / "problems.jsonl"
        path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
        return read_problems(path)

    def test_columns_of_the_usual_files(self, tmp_path):
        gsm8k = {"question": "3+4? {x}", "answer": "It is <<3+4=7>>7.\n#### 7"}
        math = {"problem": "1/2?", "level": 1, "solution": "so $\\boxed{\\frac{1}{2}}$"}
        own = {"id": "x", "prompt": "Q: 1?\nA:", "answer": 1.5}
        both = {"problem": "2?", "solution": "\\boxed{3}", "answer": "2"}
        assert self.read(tmp_path, gsm8k, "", math, own, both, "") == [
            Problem("1", "Problem: 3+4? {x}\n\nSolution:", "7"),
            Problem("3", "Problem: 1/2?\n\nSolution:", "\\frac{1}{2}"),
            Problem("x", "Q: 1?\nA:", "1.5"),
            Problem("5", "Problem: 2?\n\nSolution:", "2"),
        ]

    @pytest.mark.parametrize(
        "row, reason",
        [
            ("{", "2: not JSON"),
            ("[1]", "2: not an object"),
            ({"text": "a", "answer": "1"}, "prompt or question or problem; it has: text, answer"),
            ({"question": "a", "gold": "1"}, "2: no text in a column answer or solution; it has"),
            ({"question": " ", "answer": "1"}, "2: no text in a column prompt"),
            ({"question": "a", "answer": None}, "2: no text in a column answer"),
            ({"question": "a", "solution": "I do not know"}, "2: no answer in solution"),
            ({"id": 1, "question": "a", "answer": "1"}, "2: id '1' is there twice"),
            ({"question": "a \ud800", "answer": "1"}, "2: not valid Unicode"),
        ],
    )
    def test_a_mistake_is_told_with_its_line(self, tmp_path, row, reason):
        with pytest.raises(UserError) as raised:
            self.read(tmp_path, {"question": "a", "answer": "1"}, row)
        assert f"problems.jsonl:{reason[:2]}" in str(raised.value) or reason[:2] == "pr"
        assert reason.split(": ", 1)[-1][:20] in str(raised.value)

    def test_a_file_that_is_not_there_or_empty(self, tmp_path):
        with pytest.raises(UserError, match="no problems in it"):
            self.read(tmp_path, "")
        with pytest.raises(UserError, match="cannot read"):
            read_problems(tmp_path / "other.jsonl")
