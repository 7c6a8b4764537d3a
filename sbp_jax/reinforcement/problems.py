"""Problems to learn on and to be judged by, and what an answer to one is worth."""

import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sbp_jax import files
from sbp_jax.data import addition
from sbp_jax.errors import UserError
from sbp_jax.evaluation.maths import Judge, extract

QUESTIONS, ANSWERS = ("question", "problem"), ("answer", "solution")  # of GSM8K, of MATH


class Problem(NamedTuple):
    question: str
    answer: str


# What each text is worth; called with all texts of a step.
Reward = Callable[[Sequence[tuple[Problem, str]]], Sequence[float]]


def read_problems(spec: str) -> list[Problem]:
    if spec == "addition":
        return [Problem(addition.question(a, b), str(a + b)) for a, b in addition.SUMS]
    path = files.absolute(spec)
    if not path.is_file():
        raise UserError(f"{spec}: no such file; it is addition, or JSONL with question and answer")
    problems = []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{spec}: not UTF-8 text: {error}") from error
    for number, line in enumerate(text.split("\n"), 1):  # JSON's strings may hold other ends
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            question, answer = (next(row[n] for n in names if n in row)
                                for names in (QUESTIONS, ANSWERS))  # fmt: skip
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(
                f"{spec}: line {number} is no JSON object with a question and an answer"
            ) from error
        worked_out = isinstance(answer, str) and ("####" in answer or "\\boxed" in answer)
        right = extract(answer) if worked_out else answer is not None and str(answer).strip()
        if not isinstance(question, str) or not question.strip() or not right:
            raise UserError(f"{spec}: line {number} has an empty question or answer")
        problems.append(Problem(question, right))
    if not problems:
        raise UserError(f"{spec}: no problem in it")
    return problems


class AnswerReward:
    """1 where a text has the asked form and the right answer in it, else 0."""

    def __init__(self, form: str):
        try:
            self._form = re.compile(form, re.DOTALL)
        except re.error as error:
            raise UserError(f"config.grpo.answer: {error}") from error
        if self._form.groups != 1:
            raise UserError("config.grpo.answer: one group says where the answer is, as (.*) does")
        self._judge = Judge()

    def __call__(self, texts: Sequence[tuple[Problem, str]]) -> list[float]:
        found = [self._form.fullmatch(text) for _, text in texts]
        pairs = [
            (problem.answer, match and match[1].strip())
            for (problem, _), match in zip(texts, found, strict=True)
        ]
        return [float(right) for right in self._judge.equal(pairs)]

    def close(self) -> None:
        self._judge.close()
