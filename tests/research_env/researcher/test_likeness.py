"""Ideas that were had before, by their words and by their code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research_env.researcher.likeness import likeness, nearest, traits, tree_key
from sbp_jax.config import ResearchConfig

ALIKE = ResearchConfig().max_similarity
BASE = "Raise the learning rate of the optimizer from 0.001 to 0.003 and warm up for 100 steps."


@pytest.mark.parametrize(
    "same",
    [
        BASE.upper(),
        "Raise the optimizer's learning rate from 1e-3 to 3e-3, and warm up for 100 steps",
        "We raise learning rates of the optimizer from 0.001 to 0.003, with warm-up for 100 steps!",
    ],
)
def test_the_same_in_other_words_is_alike(same):
    assert likeness(traits(BASE), traits(same)) >= ALIKE


@pytest.mark.parametrize(
    "other",
    [
        BASE.replace("0.003", "0.004"),  # another number is another experiment
        "Replace the optimizer by Lion, with its usual settings.",
        "Average the weights of the last steps before the evaluation.",
        "",
    ],
)
def test_another_idea_is_not(other):
    assert likeness(traits(BASE), traits(other)) < ALIKE


@given(st.text(), st.text())
def test_likeness_is_a_share_and_the_same_both_ways(a, b):
    a, b = traits(a), traits(b)
    assert 0 <= likeness(a, b) == likeness(b, a) <= 1 == likeness(a, a)


def test_the_nearest_is_found_and_the_earlier_of_two():
    others = [(3, traits("widen the hidden layer")), (5, traits(BASE)), (9, traits(BASE))]
    assert nearest(traits(BASE), others) == (5, 1.0)
    assert nearest(traits(BASE), []) is None


def test_comments_and_layout_make_no_other_program():
    a = {"train.py": b"x = 1\ny = [x, 2]\n", "run.sh": b"python train.py\n"}
    b = {"run.sh": b"python train.py  \n\n", "train.py": b"# note\nx = 1\n\ny = [x,\n     2]"}
    assert tree_key(a) == tree_key(b)


@pytest.mark.parametrize(
    "other",
    [
        {"train.py": b"x = 2\n"},
        {"other.py": b"x = 1\n"},
        {"train.py": b"x = 1\n", "new.py": b""},
        {"train.py": b"x = (\n"},  # no Python at all
        {"train.py": b"\xff\xfe"},
        {},
    ],
)
def test_what_another_program_is_has_another_key(other):
    assert tree_key(other) != tree_key({"train.py": b"x = 1\n"})


def test_what_nests_too_deep_for_the_parser_is_compared_as_text():
    deep = b"x = " + b"(" * 5000 + b")" * 5000
    assert tree_key({"a.py": deep}) == tree_key({"a.py": deep})
    assert tree_key({"a.py": deep}) != tree_key({"a.py": deep + b"+1"})
