"""What more computing at test time brings, on problems with one right answer; as s1 measures it.

    found = run(engine, read_problems("maths.jsonl"), parse("max=512+1024,waits=0+2,votes=1+4"))

In sequence: a greedy model thinks up to `max` tokens and is told to wait `waits` times
(inference/budget_forcing.py). In parallel: `samples` texts are drawn for each problem, and k of
them vote. Control is the share of runs whose thinking has the asked number of tokens; scaling the
mean slope of accuracy over tokens, over all pairs of points; performance the best accuracy.
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from sbp_jax.errors import UserError
from sbp_jax.evaluation import majority
from sbp_jax.evaluation.markdown import table
from sbp_jax.evaluation.maths import Judge, extract
from sbp_jax.inference import budget_forcing
from sbp_jax.inference.budget_forcing import STYLES, Forcing, Thought, think
from sbp_jax.inference.engine import Engine, Sampling

EXAMPLES = 5  # of errors that are told
TEMPLATE = "Problem: {}\n\nSolution:"  # around a problem; a prompt stands as it is
GRAMMAR = (
    "fields are max=512 (tokens of thinking), min=0, waits=0, answer=64 (tokens), style="
    f"{'|'.join(STYLES)}, votes=1+4, samples=16 and temperature=1 (of votes); commas between them, "
    "+ between the numbers of max, waits and votes: max=512+1024,waits=0+2+4,votes=1+4+16"
)


@dataclass(frozen=True)
class Settings:
    max: tuple[int, ...] = (512,)  # with each of `waits`, a point of the curve
    min: int = 0  # tokens of thinking that a run should have
    waits: tuple[int, ...] = (0,)
    answer: int = 64
    style: str = "plain"
    votes: tuple[int, ...] = ()
    samples: int = 0  # 0 is the most votes
    temperature: float = 1.0


class Problem(NamedTuple):
    id: str
    prompt: str
    answer: str


def parse(text: str) -> Settings:
    """Of a flag such as max=512,waits=0+2+4,votes=1+4+16,samples=16."""
    given: dict[str, Any] = {}
    try:
        for field in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = field.partition("=")
            if not equals or name in given:
                raise ValueError(f"{field!r} is no field, or there twice")
            if name in ("max", "waits", "votes"):
                given[name] = tuple(sorted({_count(part) for part in value.split("+")}))
            elif name in ("min", "answer", "samples"):
                given[name] = _count(value)
            elif name == "temperature":
                given[name] = float(value)
            elif name == "style" and value in STYLES:
                given[name] = value
            else:
                raise ValueError(f"{field!r} is not known")
        settings = Settings(**given)
        most = max(settings.votes, default=0)
        settings = replace(settings, samples=settings.samples or most)
        if settings.votes and not 0 < settings.temperature < math.inf:
            raise ValueError("votes at temperature 0 are all the same")
        if 0 in settings.votes or most > settings.samples:
            raise ValueError(f"{most} votes of {settings.samples} samples")
        if settings.samples and not settings.votes:
            raise ValueError("samples without votes")
        if settings.min > settings.max[-1]:
            raise ValueError("min is more than max")
        if not settings.answer:
            raise ValueError("an answer of no tokens")
    except ValueError as error:
        raise UserError(f"--budget_forcing={text}: {error}; {GRAMMAR}") from None
    return settings


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def read_problems(path: epath.PathLike) -> list[Problem]:
    """JSONL with `question`, `problem` or `prompt`, and `answer` or `solution`; `id` may be there.
    A right answer may stand at the end of a solution, behind "####" or in a box.
    """
    try:
        lines = epath.Path(path).read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read: {error}") from error
    problems: dict[str, Problem] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            problem = _problem(line, f"{path}:{number}", str(number))
            if problem.id in problems:
                raise UserError(f"{path}:{number}: id {problem.id!r} is there twice")
            problems[problem.id] = problem
    if not problems:
        raise UserError(f"{path}: no problems in it; each is a line of JSON")
    return list(problems.values())


def _problem(line: str, place: str, number: str) -> Problem:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{place}: not an object of JSON")

    def column(*names: str) -> tuple[str, str]:
        for name in names:
            value = row.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                value = str(value)
            if isinstance(value, str) and value.strip():
                return name, value
        there = ", ".join(map(str, row)) or "none"
        raise UserError(f"{place}: no text in a column {' or '.join(names)}; it has: {there}")

    name, text = column("prompt", "question", "problem")
    which, answer = column("answer", "solution")
    try:
        (text + answer).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: not valid Unicode: {error.reason}") from None
    if which == "solution" or "####" in answer or "\\boxed" in answer:
        found = extract(answer)
        if found is None:
            raise UserError(f"{place}: no answer in {which}: put it in \\boxed{{}} or behind ####")
        answer = found
    prompt = text if name == "prompt" else TEMPLATE.format(text.strip())
    return Problem(str(row.get("id", number)), prompt, answer)


def run(
    engine: Engine, problems: Sequence[Problem], settings: Settings, seed: int = 0
) -> dict[str, Any]:
    """Plain JSON: the settings, the points of the curves with standard errors, and s1's metrics."""
    golds = [problem.answer for problem in problems]
    errors: list[str] = []
    with Judge() as judge:
        points = []
        for most, waits in itertools.product(settings.max, settings.waits):
            thoughts = _think(engine, problems, settings, most, waits, seed)
            votes = majority.count(judge, golds, _answers(thoughts))
            right = np.array([each.right for each in votes], float)
            points.append({"max": most, "waits": waits} | _point(thoughts, right, settings.min))
            errors += _errors(thoughts)
        found: dict[str, Any] = {
            "settings": asdict(settings),
            "seed": seed,
            "problems": len(problems),
            "sequential": {"points": points} | _metrics(points),
        }
        found["sequential"]["control"] = float(np.mean([p["control"] for p in points]))
        if settings.votes:
            most, waits = settings.max[-1], settings.waits[0]
            thoughts = _think(
                engine, problems, settings, most, waits, seed, settings.samples,
                settings.temperature,
            )  # fmt: skip
            votes = majority.count(judge, golds, _answers(thoughts))
            points = [_votes_point(k, thoughts, votes, seed) for k in settings.votes]
            found["parallel"] = {"max": most, "waits": waits, "points": points} | _metrics(points)
            errors += _errors(thoughts)
    return found | {"errors": len(errors), "error_examples": errors[:EXAMPLES]}


def _think(
    engine: Engine,
    problems: Sequence[Problem],
    settings: Settings,
    most: int,
    waits: int,
    seed: int,
    samples: int = 1,
    temperature: float = 0.0,
) -> list[list[Thought]]:
    """The thoughts of each problem."""
    forcing = Forcing(most, waits, settings.answer, STYLES[settings.style])
    asked = (
        budget_forcing.Problem(problem.id, problem.prompt, sample)
        for problem in problems
        for sample in range(samples)
    )
    found: dict[tuple[str, int], Thought] = {}
    for thought in think(engine, asked, forcing, Sampling(temperature=temperature), seed):
        found[thought.id, thought.sample] = thought
    if all(thought.error for thought in found.values()):
        first = next(iter(found.values())).error
        raise UserError(f"each of {len(found)} texts failed, the first with: {first}")
    return [[found[p.id, sample] for sample in range(samples)] for p in problems]


def _answers(thoughts: list[list[Thought]]) -> list[list[str | None]]:
    return [[None if t.error else extract(t.answer) for t in each] for each in thoughts]


def _errors(thoughts: list[list[Thought]]) -> list[str]:
    return [thought.error for each in thoughts for thought in each if thought.error]


def _point(thoughts: list[list[Thought]], right: np.ndarray, least: int) -> dict[str, Any]:
    every = [thought for each in thoughts for thought in each]
    tokens = np.array([t.thinking_tokens for t in every], float)
    return {
        "thinking_tokens": float(tokens.mean()),
        "thinking_tokens_stderr": _stderr(tokens),
        "accuracy": float(right.mean()),
        "stderr": _stderr(right.mean(1)),
        # More than the upper limit it cannot be.
        "control": float(np.mean([not t.error and t.thinking_tokens >= least for t in every])),
        "cut": float(np.mean([t.cut for t in every])),
        "waited": float(np.mean([t.waits for t in every])),
        "errors": len(_errors(thoughts)),
    }


def _votes_point(
    voters: int, thoughts: list[list[Thought]], votes: list[majority.Votes], seed: int
) -> dict[str, Any]:
    random = np.random.default_rng([seed, voters])
    right = np.array([majority.accuracy(each, voters, random) for each in votes])
    tokens = voters * np.array([np.mean([t.thinking_tokens for t in each]) for each in thoughts])
    return {
        "votes": voters,
        "thinking_tokens": float(tokens.mean()),
        "thinking_tokens_stderr": _stderr(tokens),
        "accuracy": float(right.mean()),
        "stderr": _stderr(right),
        "errors": len(_errors(thoughts)),
    }


def _metrics(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Scaling is accuracy for a token; none where no two points differ in their tokens."""
    slopes = [
        (b["accuracy"] - a["accuracy"]) / (b["thinking_tokens"] - a["thinking_tokens"])
        for a, b in itertools.combinations(points, 2)
        if a["thinking_tokens"] != b["thinking_tokens"]
    ]
    return {
        "scaling": float(np.mean(slopes)) if slopes else None,
        "performance": max(point["accuracy"] for point in points),
    }


def _stderr(values: np.ndarray) -> float | None:
    """Over problems; None of a single one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def markdown(found: dict[str, Any]) -> str:
    sequential, parallel = found["sequential"], found.get("parallel")
    lines = [["in sequence", "thinking tokens", "accuracy", "control", "cut off", "waits"]]
    for p in sequential["points"]:
        shares = [f"{100 * p[name]:.1f}" for name in ("control", "cut")]
        name = f"max {p['max']}, waits {p['waits']}"
        lines.append([name, _tokens(p), _accuracy(p), *shares, f"{p['waited']:.2f}"])
    tables = [table(lines)]
    if parallel:
        lines = [["in parallel", "thinking tokens", "accuracy"]]
        lines += [[f"{p['votes']} votes", _tokens(p), _accuracy(p)] for p in parallel["points"]]
        tables.append(table(lines))
    lines = [["", "control", "scaling, points for 1,000 tokens", "performance"]]
    for name, curve in (("in sequence", sequential), ("in parallel", parallel)):
        if curve:
            control = f"{100 * curve['control']:.1f}" if "control" in curve else ""
            slope = "" if curve["scaling"] is None else f"{1e5 * curve['scaling']:+.2f}"
            lines.append([name, control, slope, f"{100 * curve['performance']:.1f}"])
    tables.append(table(lines))
    told = f"{found['problems']} problems; accuracy in percent, with standard errors.\n"
    if found["errors"]:
        example = found["error_examples"][0]
        tables.append(f"{found['errors']} texts failed and count as wrong; the first: {example}.\n")
    return "\n".join([told, *tables])


def _tokens(point: dict[str, Any]) -> str:
    return f"{point['thinking_tokens']:,.1f}"


def _accuracy(point: dict[str, Any]) -> str:
    error = point["stderr"]
    return f"{100 * point['accuracy']:.1f}" + ("" if error is None else f" ± {100 * error:.1f}")
