"""What counts as an answer: cases made by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entigraph.evaluation.answers import LETTERS, letter

CASES = {
    # One letter, stated.
    "Answer: B.": "B",
    "Answer: B": "B",
    "answer: b": "B",
    "ANSWER: (C)": "C",
    "Answer:\nD": "D",
    "Answer： A": "A",
    "**Answer:** B": "B",
    "**Answer: B**": "B",
    "*Answer*: **(B)**.": "B",
    'The answer is "C".': "C",
    "The correct answer is B.": "B",
    "So the best choice is (d).": "D",
    "The answer would be C, as the captain says.": "C",
    "Answer: option B": "B",
    "The answer is choice (B).": "B",
    "Answer: [A]": "A",
    r"The answer is $\boxed{C}$.": "C",
    r"Answer: \boxed{\text{D}}": "D",
    "Answer is: A": "A",
    "Answer = B": "B",
    "The answer is A because she left first.": "A",
    "The answer is A, the ship.": "A",
    "The answer is A and nothing else fits.": "A",
    "Answer: B the ship": "B",
    "Answer: D. The ship and the crew": "D",
    "Answer: B, not C.": "B",
    "Answer: C) The lighthouse": "C",
    "She never returned, so the second fits.\nAnswer: B.": "B",
    # Nothing but a letter, or a letter before its choice.
    "(b)": "B",
    "B": "B",
    " c. ": "C",
    "**A**": "A",
    "[D]": "D",
    "B. The ship": "B",
    "(C) The lighthouse": "C",
    "He thinks of his brother.\n\nB": "B",
    "He thinks of his brother.\n(d).": "D",
    # The last of several statements.
    "Answer: A. No, he was away.\nAnswer: C.": "C",
    "The answer is B. Checking again: the answer is B.": "B",
    "<think>The answer is A?</think>The answer is D.": "D",
    "Answer: B and C.\nOn reflection, Answer: C.": "C",
    "Answer: B. The answer is not surprising.": "B",
    # Several letters in one statement, or none.
    "B and C": None,
    "Answer: B and C": None,
    "Answer: B or C.": None,
    "Answer: (A), (B)": None,
    "Answer: A, B, and D": None,
    "Answer: A/B": None,
    "Answer: B & C": None,
    "Answer: **A** and **D**": None,
    "Answer: C.\nNo: the answer is A or B.": None,
    "The answer could be A or C.": None,
    "A. B. C. D.": None,
    "A, B": None,
    # No letter, no choice, or a word that begins like one.
    "": None,
    "   \n": None,
    "Answer:": None,
    "Answer: ": None,
    "Answer: E": None,
    "Answer: none of the above": None,
    "Answer: all of them": None,
    "Answer: Dickens": None,
    "Answer: C-3PO": None,
    "Answer: D'Artagnan": None,
    "Answer: A.I. research": None,
    "The answer is a difficult one.": None,
    "The answer is A matter of taste.": None,
    "The answer is not B.": None,
    "The answer cannot be B.": None,
    "Option A is tempting, but the text says nothing of it.": None,
    "A man walks in and says that he knows.": None,
    "I cannot say.": None,
    "I": None,
    "Answer: 2": None,
    "Answer: É": None,
}


@pytest.mark.parametrize(("text", "right"), CASES.items())
def test_cases(text, right):
    found = letter(text)
    assert (None if found is None else LETTERS[found]) == right


@given(st.text(max_size=60), st.sampled_from(LETTERS))
def test_what_stands_before_the_last_statement_does_not_matter(before, right):
    assert letter(f"{before}\n\nAnswer: {right}.") == LETTERS.index(right)


@given(st.text(alphabet="ABCDabcd answer:is()*.\n,&", max_size=80))
def test_any_text_has_one_answer_or_none(text):
    assert letter(text) in (None, 0, 1, 2, 3)
