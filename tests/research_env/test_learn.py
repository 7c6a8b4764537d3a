"""Ideas of a policy: read, valued, rewarded; and a whole small run."""

import itertools
import json

import pytest

from research_env import learn
from research_env.env import load
from sbp_jax.config import new_config, resolve


@pytest.fixture(scope="module")
def values():
    return learn.Values(load("synthetic"), seed=0)


def test_an_idea_is_what_it_changes_whatever_its_order(values):
    one = values.idea("WIDTH = 256\nOPTIMIZER = 'muon'")
    assert one == values.idea(" OPTIMIZER = 'muon'\nWIDTH = 256\nDROPOUT = 0.3\n")
    assert one == "OPTIMIZER = 'muon'\nWIDTH = 256"
    for nothing in ("", "DROPOUT = 0.3", "WIDTH is 256", "OTHER = 1", "WIDTH = f(2)", "WIDTH = (1"):
        assert values.idea(nothing) is None


def test_values_are_scores_and_nothing_where_a_run_would_fail(values):
    start, better = values("DROPOUT = 0.3", 1), values("OPTIMIZER = 'muon'\nDEPTH = 8", 1)
    assert 0.4 < start < 0.6 < better < 0.9
    assert values("LEARNING_RATE = 30.0", 1) == 0  # diverges
    assert values("WIDTH = 1000000", 1) == 0  # out of memory
    assert values("ACTIVATION = 'no'", 1) == 0
    assert values("nonsense", 1) == 0
    assert values("DEPTH = 8", 1) == values("DEPTH = 8", 1) != values("DEPTH = 8", 2)


def test_copies_beyond_the_cap_and_what_is_shared_are_worth_less(values):
    texts = ["DEPTH = 8", "DEPTH = 8", "DEPTH = 8", "WIDTH = 256", "DEPTH = 8\nUSE_BIAS = False"]
    plain = learn.rewards(texts, values, novelty=0, cap=0)
    assert min(plain) > 0.4
    capped = learn.rewards(texts, values, novelty=0, cap=2)
    assert capped == [*plain[:2], 0.0, *plain[3:]]
    novel = learn.rewards(texts, values, novelty=0.5, cap=0)
    shared = [3 / 5, 3 / 5, 3 / 5, 0, 3 / 2 / 5]
    assert novel == pytest.approx([p - 0.5 * s for p, s in zip(plain, shared, strict=True)])
    assert learn.rewards(["nonsense"] * 2, values, novelty=0.5, cap=1) == [0, 0]


def test_what_is_told_of_a_step(values):
    texts = ["DEPTH = 8", "DEPTH = 8", "nonsense", "WIDTH = 256\nDEPTH = 8"]
    step = {"step": 3, "texts": [["?", "any", text, 9.0] for text in texts]}
    [found] = learn.learning([step], values)["steps"]
    assert found["step"] == 3 and found["commonest_idea"] == "DEPTH = 8"
    assert (found["sound"], found["different"], found["commonest"]) == (0.75, 0.5, 0.5)
    assert found["edits"] == pytest.approx(4 / 3)
    assert found["best"] == max(values(text, i) for i, text in enumerate(texts))


def test_the_mutators_ideas_are_of_the_form_that_is_read(values):
    found = list(itertools.islice(learn.mutated(load("synthetic"), 0), 200))
    assert all(document.text.startswith(learn.BEGINNING) for document in found)
    ideas = [values.idea(document.text.removeprefix(learn.BEGINNING)) for document in found]
    assert None not in ideas and len(set(ideas)) > 100


@pytest.mark.slow
def test_a_whole_run_ends_in_curves_and_again_in_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(learn, "IDEAS", 200)
    config = new_config()
    config.model.update(
        num_layers=1, d_model=32, num_heads=2, num_kv_heads=2, head_dim=16, d_ff=64,
        vocab_size=320,
    )  # fmt: skip
    config.data.update(sequence_length=64, workers=1)
    config.train.update(batch_size=8, tokens=20 * 8 * 64, samples=0, tensorboard=False)
    config.grpo.update(
        steps=2, prompts=1, group=8, batch_size=8, max_tokens=24, evaluated=1, kept_texts=8
    )
    found = learn.learn(resolve(config), tmp_path, novelty=0.1, cap=2)
    assert [step["step"] for step in found["steps"]] == [1, 2]
    assert json.loads((tmp_path / "learning.json").read_text()) == found
    assert (tmp_path / "learning.png").read_bytes().startswith(b"\x89PNG")
    assert "commonest" in capsys.readouterr().out
    assert learn.learn(resolve(config), tmp_path, novelty=0.1, cap=2) == found
