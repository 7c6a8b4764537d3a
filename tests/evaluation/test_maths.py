"""Answers are found where texts put them, and are equal when a teacher would say so."""

import itertools
import os
import signal
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbp_jax.evaluation.maths import Judge, extract, plain

pytest.importorskip("math_verify")

EQUAL = [
    ("180\\text{ miles}", "180"),
    ("12\\sqrt{13}\\text{ feet}", "\\sqrt{1872}"),
    ("40\\text{ min}", "40 minutes"),
    ("\\$30", "30 dollars"),
    ("54^\\circ", "54"),
    ("\\frac{990}{7}^\\circ", "990/7"),
    ("20\\%", "20"),
    ("32 \\%", "32%"),
    ("\\frac12", "0.5"),
    ("\\frac 18", ".125"),
    ("\\dfrac{1}{2}", "1/2"),
    ("\\(\\frac{3}{4}\\)", "$0.75$"),
    ("-\\frac{1}{2}", "\\frac{-1}{2}"),
    ("14\\frac{6}{7}", "\\frac{104}{7}"),
    ("\\frac{x+1}{2}", "(x+1)/2"),
    ("1,000", "1000"),
    ("11,\\!880", "11880"),
    ("300{,}000", "300,000"),
    ("3 \\times 10^5", "300000"),
    ("10.00", "10"),
    ("\\text{Wednesday}", "wednesday."),
    ("\\mbox{four}", "Four"),
    ("(A)", "\\text{A}"),
    ("x=5", "5"),
    ("(1,2)", "( 1, 2 )"),
    ("1,-2", "-2, 1"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("[0,1)", "\\left[0,1\\right)"),
    ("(-\\infty,2)\\cup(3,\\infty)", "(3,\\infty)\\cup(-\\infty,2)"),
    ("2-b", "-b + 2"),
    ("x^2-1", "(x-1)(x+1)"),
    ("\\frac{2\\sqrt{3}}{3}", "\\frac{2}{\\sqrt{3}}"),
    ("5:6", "5:6"),
]
DIFFERENT = [
    ("180", "18"),
    ("-5", "5"),
    ("1234", "1,235"),
    ("20\\%", "0.2"),
    ("\\frac{1}{3}", "0.333"),
    ("14\\frac67", "84/7"),
    ("\\sqrt{2}", "1.41"),
    ("(1,2)", "(2,1)"),
    ("[0,1)", "[0,1]"),
    ("\\{1,2\\}", "\\{1,3\\}"),
    ("5", "5,6"),
    ("(1,2)", "\\{1,2\\}"),
    ("9:24", "24"),
    ("2-b", "2-c"),
    ("dog", "god"),
    ("Wednesday", "Thursday"),
    ("5", "5 or 6 or 7"),
    ("1", ""),
    ("", ""),
    ("1", None),
]
HOSTILE = [
    ("1", "10**10**10"),
    ("1", "10^{10^{10^{10}}}"),
    ("3", "2^{2^{2^{2^{2^{2}}}}}"),
    ("x", "(" * 199 + "x" + ")" * 199 + "+1"),
    ("x", "{" * 300),
    ("1", "1" * 1_000_000),
    ("\\frac{1}{0}", "1"),
    ("1/0", "x"),
    ("x", "\\frac" * 70),
    ("x", "\0\ud800\n"),
    ("x", "\\int_0^{1} e^{x^{x^{x^x}}} dx"),
    ("x", "\\input{/etc/passwd}"),
]


@pytest.fixture(scope="module")
def judge():
    with Judge(processes=2, timeout_s=2) as judge:
        yield judge


def test_hand_cases_that_are_equal(judge):
    assert [p for p, e in zip(EQUAL, judge.equal(EQUAL), strict=True) if not e] == []
    golds = [gold for gold, _ in EQUAL + DIFFERENT if gold]
    assert all(judge.equal([(gold, gold) for gold in golds]))


def test_hand_cases_that_are_not_equal(judge):
    assert [p for p, e in zip(DIFFERENT, judge.equal(DIFFERENT), strict=True) if e] == []


def test_no_two_of_different_value_are_equal(judge):
    """Of the first of each pair, for the second may be the same in other words."""
    firsts = [gold for gold, _ in EQUAL if gold not in ("3 \\times 10^5", "\\dfrac{1}{2}")]
    same = {frozenset(p) for p in itertools.combinations(firsts, 2) if plain(p[0]) == plain(p[1])}
    pairs = [p for p in itertools.permutations(firsts, 2) if frozenset(p) not in same]
    assert {p for p, e in zip(pairs, judge.equal(pairs), strict=True) if e} == set()


def test_what_hangs_or_crashes_sympy_is_not_equal_and_the_others_are_judged(judge):
    between = [("x+1", "1+x"), ("x+1", "x+2")]
    pairs = [pair for hostile in HOSTILE for pair in (hostile, *between)]
    assert judge.equal(pairs) == [False, True, False] * len(HOSTILE)
    assert judge.equal([("x+y", f"y+x+{n}-{n}") for n in range(20)]) == [True] * 20


def test_a_comparison_has_a_limit_of_time(judge):
    with Judge(processes=1, timeout_s=0.001) as hasty:
        slow = [("\\frac{x^7-1}{x-1}", "x^6+x^5+x^4+x^3+x^2+x+1")]
        assert hasty.equal(slow) == [False] and judge.equal(slow) == [True]


def children():
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return {int(line.split()[0]) for line in lines if "maths_worker" in line}


def test_a_process_that_is_killed_is_replaced_and_none_is_left_behind():
    before = children()
    with Judge(processes=1) as judge:
        assert judge.equal([("x+1", "1+x")]) == [True]
        [worker] = children() - before
        os.kill(worker, signal.SIGKILL)
        judge.equal([("x+2", "2+x")])  # whose process has died
        assert judge.equal([("x+3", "3+x"), ("x", "y"), ("x+2", "2+x")]) == [True, False, True]
        assert worker not in children()
    assert children() == before


@pytest.mark.parametrize(
    "text, answer",
    [
        ("so $\\boxed{\\frac{1}{2}}$ it is", "\\frac{1}{2}"),
        ("\\boxed{1}, no: \\boxed {2}", "2"),
        ("\\boxed{a} and then \\boxed{cut o", "a"),
        ("\\boxed{} The answer is 3", "3"),
        ("5 + 6 = 11\n#### 1,011\n", "1,011"),
        ("#### -7 \n\nQuestion: 12?", "-7"),
        ("Final Answer: The final answer is $\\frac{3}{4}$. I hope it is correct.",
         "$\\frac{3}{4}$"),
        ("Final Answer: 12", "12"),
        ("**Answer:** 42 apples", "42 apples"),
        ("The answer is 1. Wait. The answer is: 3.5.", "3.5"),
        ("We have 12 and -3.25", "-3.25"),
        ("So 10-3 leaves 7, or $1,234,567.89, of them.", "1,234,567.89"),
        ("half is .5", ".5"),
        ("It costs 5.", "5"),
        ("I do not know", None),
        ("", None),
    ],
)  # fmt: skip
def test_an_answer_is_found_where_a_text_puts_it(text, answer):
    assert extract(text) == answer


@given(st.text(alphabet="\\boxed{}fracdsT#$ .,:12-answeri\n", max_size=80))
def test_no_text_is_too_strange(text):
    found = extract(text)
    assert found is None or (found.strip() and found in text)
    assert plain(plain(text)) is not None
