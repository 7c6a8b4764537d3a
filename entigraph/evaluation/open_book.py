"""The same questions with passages before them: what retrieval gives a model, and what a model that
has learnt the articles gains from it still.

The query is the question with its choices. The nearest TOP passages are reranked; the first k are
shown, best first or best last. Passage size, k, order and temperature are chosen by accuracy on the
validation split; the test split is answered once, with what was chosen there.
"""

import itertools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entigraph.evaluation import reranking, retrieval
from entigraph.evaluation.asking import Asker, Prompts
from entigraph.evaluation.closed_book import answered
from entigraph.evaluation.outcomes import Outcome
from entigraph.evaluation.questions import Article, Question, fingerprint, shown, split
from entigraph.library import Text
from sbp_jax import files
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import Sampling

TOP = 128  # passages of the search that are reranked
RECALLS = (1, 2, 4, 8, 16, 32, 64, 128)
ORDERS = ("first", "last")
GRAMMAR = (
    "fields are chunk=1024 (characters), k=8 (passages), order=first|last (where the best one "
    "stands), temperature=0.1; commas between them, + between values to be tried: "
    "chunk=256+512+1024,k=1+4+8+16,order=first+last,temperature=0.1+0.3"
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    chunk: int = 1024
    k: int = 8
    order: str = "last"
    temperature: float = 0.1

    @property
    def name(self) -> str:
        return f"chunk={self.chunk},k={self.k},order={self.order},temperature={self.temperature:g}"


def parse_sweep(text: str) -> list[Point]:
    values: dict[str, list[Any]] = {}
    try:
        for field in filter(None, (part.strip() for part in text.split(","))):
            name, equals, some = field.partition("=")
            if not equals or name in values or name not in vars(Point()):
                raise ValueError(f"{field!r} is no field, or there twice")
            kind = type(getattr(Point(), name))
            values[name] = list(dict.fromkeys(kind(value) for value in some.split("+")))
        points = [
            Point(**dict(zip(values, some, strict=True)))
            for some in itertools.product(*values.values())
        ]
        for point in points:
            if point.chunk < 1 or not 1 <= point.k <= TOP or not 0 <= point.temperature < 10:
                raise ValueError(f"{point.name} is out of range (k is at most {TOP})")
            if point.order not in ORDERS:
                raise ValueError(f"order={point.order!r}")
    except ValueError as error:
        raise UserError(f"--sweep={text}: {error}; {GRAMMAR}") from None
    return points


@dataclass(frozen=True)
class Ranked:
    """For each question of a split, in order, the passages of its list, best first."""

    passages: list[retrieval.Passage]
    numbers: np.ndarray  # [questions, up to TOP]

    def of(self, question: int, k: int) -> list[retrieval.Passage]:
        return [self.passages[n] for n in self.numbers[question, :k]]


Rerank = Callable[[str, Sequence[str], Sequence[str], Sequence[Sequence[str]]], np.ndarray]


@dataclass(frozen=True)
class OpenBook:
    library: Sequence[Text]
    folder: Path
    ask: Asker
    prompts: Prompts
    embedder: retrieval.Embedder
    index: str
    rerank: Rerank | None  # (name, ids, queries, passages of each) -> scores
    identity: dict[str, Any]  # of embedder and reranker
    samples: int
    answer_tokens: int
    stop: tuple[str, ...]
    seed: int

    def run(self, articles: Sequence[Article], points: Sequence[Point]) -> dict[str, Any]:
        """What was tried, what was chosen, and "outcomes" of the test split by it."""
        validation, test = split(articles, "validation"), split(articles, "test")
        tried = []
        for point in points if len(points) > 1 else ():
            outcomes, _ = self.answer("validation", validation, point)
            shares = {
                "accuracy": sum(o.right for o in outcomes) / len(outcomes),
                "parse_rate": sum(o.answer is not None for o in outcomes) / len(outcomes),
            }
            tried.append({**vars(point), **shares})
            log.info("open book, %s: %.2f%%", point.name, 100 * tried[-1]["accuracy"])
        best = max(range(len(tried)), key=lambda i: tried[i]["accuracy"]) if tried else 0
        self._touch_test_once(articles, points[best])
        outcomes, recalls = self.answer("test", test, points[best])
        return {
            "chosen": vars(points[best]),
            "validation": tried,
            "recall": recalls,
            "outcomes": outcomes,
        }

    def answer(
        self, part: str, articles: Sequence[Article], point: Point
    ) -> tuple[list[Outcome], dict[str, float]]:
        ranked = self.ranked(part, articles, point.chunk)
        asked: list[tuple[Article, Question, str]] = []
        owners = []
        for article in articles:
            for question in article.questions:
                best = ranked.of(len(asked), point.k)
                given = best if point.order == "first" else best[::-1]
                passages = "\n".join(f"[{n}] {p.text}" for n, p in enumerate(given, start=1))
                filled = self.prompts.fill(
                    "open_book", passages=passages, question=shown(article, question)
                )
                asked.append((article, question, filled))
                owners.append(article.text.id)
        lists = [[p.article for p in ranked.of(i, TOP)] for i in range(len(asked))]
        recalls = {str(k): retrieval.recall(lists, owners, k) for k in RECALLS}
        sampling = Sampling(self.answer_tokens, point.temperature, stop=self.stop)
        samples = self.samples if point.temperature else 1
        outcomes = answered(
            f"open_book/{part}-{point.name}", asked, self.ask, sampling, samples, self.seed
        )
        return outcomes, recalls

    def ranked(self, part: str, articles: Sequence[Article], chunk: int) -> Ranked:
        """Kept in a file under the hash of all that it depends on: reranking may take hours."""
        passages = retrieval.passages(self.library, chunk)
        if not passages:
            raise UserError(
                "open_book: no texts to retrieve from: the question file has no articles; name "
                "them with --input"
            )
        texts = [p.text for p in passages]
        told = [self.identity, chunk, texts, fingerprint(articles), TOP]
        key = files.sha256(json.dumps(told).encode())[:16]
        path = self.folder / "open_book" / f"ranked-{part}-{chunk}-{key}.json"
        if path.exists():
            return Ranked(passages, np.array(files.read_record(path, "numbers")["numbers"]))
        asked = [(article, q) for article in articles for q in article.questions]
        queries = ["\n".join([q.text, *q.options]) for _, q in asked]
        vectors = self.embedder.passages(texts)
        numbers = retrieval.search(self.embedder.queries(queries), vectors, TOP, self.index)
        if self.rerank:
            found = [[texts[n] for n in row] for row in numbers]
            about = [shown(article, q) for article, q in asked]
            ids = [q.id for _, q in asked]
            scores = self.rerank(f"open_book/judged-{part}-{chunk}", ids, about, found)
            order = np.argsort(-scores, axis=1, kind="stable")
            numbers = np.take_along_axis(numbers, order, axis=1)
        files.write_bytes(path, json.dumps({"numbers": numbers.tolist()}).encode())
        return Ranked(passages, numbers)

    def _touch_test_once(self, articles: Sequence[Article], point: Point) -> None:
        """A second choice, made after the test's score was seen, would be one by the test."""
        path = self.folder / "open_book" / "test.json"
        choice = {
            "questions": fingerprint(articles),
            "model": self.ask.engine.fingerprint(),
            "chosen": vars(point),
        }
        if not path.exists():
            files.write_json(path, choice)
        elif files.read_record(path, "chosen") != choice:
            raise UserError(
                f"{path}: the test split has been answered with another choice, model or question "
                "file; answer it with this one in another --output"
            )


def reranker(
    name: str, ask: Asker, prompts: Prompts, open_sampler: Callable[[], Any]
) -> Rerank | None:
    """Of --reranker."""
    if name == "none":
        return None
    if name == "likelihood":
        return lambda _, ids, queries, found: reranking.by_likelihood(
            open_sampler(), queries, found
        )
    if name == "judge":
        return lambda job, ids, queries, found: reranking.by_judge(
            job, ask, prompts, ids, queries, found
        )
    return lambda _, ids, queries, found: reranking.by_cross_encoder(name, queries, found)
