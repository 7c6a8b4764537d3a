"""Ideas out of what a model says, whatever it puts around them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research_env.researcher.ideator import TEXT, TITLE, Thought, parsed

LONG = "Change X from 0 to 1, since the slope there points up."
ONE = {"title": "Step up", "idea": LONG}
TWO = {"title": "Step down", "idea": LONG.replace("1", "-1")}
BOTH = [Thought("Step up", LONG), Thought("Step down", TWO["idea"])]


@pytest.mark.parametrize(
    "said",
    [
        json.dumps({"ideas": [ONE, TWO]}),
        json.dumps([ONE, TWO]),
        f"Sure! Here they are:\n```json\n{json.dumps({'ideas': [ONE, TWO]}, indent=2)}\n```\nWell?",
        json.dumps({"ideas": [ONE, TWO]}).replace("}]", "},]"),
        f"First: {json.dumps(ONE)} and second: {json.dumps(TWO)}",
        json.dumps({"ideas": [ONE, TWO, ONE]})[:-30],  # cut off in the third
        json.dumps(
            {"answer": {"ideas": [{"name": t["title"], "text": t["idea"]} for t in (ONE, TWO)]}}
        ),  # fmt: skip
        "{} { not JSON } " + json.dumps({"ideas": [ONE, TWO]}),
    ],
)
def test_whole_ideas_count_wherever_they_stand(said):
    assert parsed(said) == BOTH


@pytest.mark.parametrize(
    "said", ["", "I have no idea.", "{", "[]", '{"ideas": []}', '{"title": "a", "idea": "short"}']
)
def test_where_there_is_none_none_is_found(said):
    assert parsed(said) == []


def test_a_line_break_inside_a_string_is_no_mistake():
    assert parsed('{"title": "a", "idea": "one line of it\nand another line"}')[0].text.count("\n")


def test_lengths_are_bounded_and_titles_are_one_line():
    [thought] = parsed(json.dumps({"title": "a\n" * 500, "idea": "b\n" * 50_000}))
    assert len(thought.title) <= TITLE and "\n" not in thought.title.strip()
    assert len(thought.text) <= TEXT


def test_hostile_depth_and_length_are_survived():
    assert parsed("{" * 100_000) == []
    assert parsed('{"a":' * 10_000) == []
    assert parsed("[" * 100_000 + json.dumps(ONE)) == [BOTH[0]]


@given(st.text())
def test_no_answer_breaks_it(said):
    parsed(said)
