"""What a model got on each question, and the scores of it.

    W/outcomes/TASK.jsonl       a line a question
    W/samples/TASK.parquet      a row an article, as sbp_jax.evaluate writes it: for comparisons

Questions about one article stand or fall together, so the unit of every interval is the article: a
score is the sum of right answers over the sum of questions, and articles are resampled. Every
question counts, answered or not.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entigraph.evaluation.answers import LETTERS
from entigraph.evaluation.questions import Article, Question, fingerprint
from sbp_jax import files
from sbp_jax.evaluation.scores import Score, TaskScores
from sbp_jax.synthesis.figures import wilson

RESAMPLES = 10_000
CHUNK = 1 << 20  # numbers in an array at one time


@dataclass(frozen=True)
class Outcome:
    question: Question
    article: str  # id
    answer: int | None  # the choice that counts; None where there is none
    samples: str = ""  # a letter a sample, "-" where it has none

    @property
    def right(self) -> bool:
        return self.answer == self.question.gold

    def row(self) -> dict[str, Any]:
        letter = None if self.answer is None else LETTERS[self.answer]
        return {
            "question": self.question.id,
            "article": self.article,
            "difficult": self.question.difficult,
            "gold": LETTERS[self.question.gold],
            "answer": letter,
            "right": self.right,
        } | ({"samples": self.samples} if self.samples else {})


def by_article(articles: Sequence[Article], outcomes: Sequence[Outcome]) -> TaskScores:
    """Accuracy, in the halves too where the questions have them, and the parse rates."""
    place = {article.text.id: number for number, article in enumerate(articles)}
    which = np.array([place[outcome.article] for outcome in outcomes], int)

    def share(values: Iterable[float], weights: Iterable[float]) -> Score:
        weight = np.array(list(weights), float)
        value = np.array(list(values), float) * weight
        totals = [np.bincount(which, x, len(articles)).astype(float) for x in (value, weight)]
        return Score(totals[0], totals[1])

    right, all_alike = [o.right for o in outcomes], [1.0] * len(outcomes)
    metrics = {"accuracy": share(right, all_alike)}
    for name, half in (("hard", True), ("easy", False)):
        inside = [o.question.difficult is half for o in outcomes]
        if any(inside):
            metrics[name] = share(right, inside)
    if any(o.samples for o in outcomes):
        parsed = [1 - o.samples.count("-") / len(o.samples) for o in outcomes]
        metrics["parse_rate"] = share([o.answer is not None for o in outcomes], all_alike)
        metrics["sample_parse_rate"] = share(parsed, all_alike)
    told = [[a.text.heading, [vars(q) for q in a.questions]] for a in articles]
    return TaskScores(
        [files.sha256(json.dumps(one).encode()) for one in told],
        ["\n".join(q.text for q in article.questions) for article in articles],
        metrics,
    )


def write(
    folder: Path, task: str, articles: Sequence[Article], outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    """The task's part of results.json; its files are there when this returns."""
    lines = "".join(json.dumps(outcome.row()) + "\n" for outcome in outcomes).encode()
    files.write_bytes(folder / f"outcomes/{task}.jsonl", lines)
    entry = by_article(articles, outcomes).write(folder, task)
    return entry | {
        "questions": len(outcomes),
        "asked": fingerprint(articles),
        "outcomes": {"path": f"outcomes/{task}.jsonl", "sha256": files.sha256(lines)},
    }


def interval(score: Score, name: str, share: bool = False) -> list[float] | None:
    """95%, of the score over resampled documents; None of fewer than two, or where a sample happens
    to have no weight. Where documents do not differ, all right for example, resampling has nothing
    to go by: a share gets Wilson's interval, for as many questions as there are documents.
    """
    count = len(score.values)
    if count < 2:
        return None
    draw = np.random.default_rng(int(files.sha256(name.encode())[:16], 16))
    found = []
    size = max(1, CHUNK // count)
    for start in range(0, RESAMPLES, size):
        rows = min(size, RESAMPLES - start)
        drawn = draw.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        found.append(score.of(counts.astype(float)))
    values = np.concatenate(found)
    if not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    if share and high - low < 1e-9:
        low, high = wilson(float(score.value), int(np.count_nonzero(score.weights)))
    return [float(low), float(high)]
