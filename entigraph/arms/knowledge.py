"""What a model knows of a library and of everything else, all by likelihoods: for models that are
too small to reason. A folder of scores in the form of entigraph.evaluate, so that models are
compared question by question.

    likelihood       four-way questions, closed book; or likelihood_per_byte
    open_book        the same after the passages that a search finds for them
    general_facts    questions about what the library is not about (toy world)
    general_text     loss on general text
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entigraph.arms.niche import BREAK
from entigraph.evaluation import outcomes, results, retrieval
from entigraph.evaluation.asking import Prompts
from entigraph.evaluation.forgetting import GENERAL, general_text
from entigraph.evaluation.likelihood import PLACE, logprobs_of_choices
from entigraph.evaluation.outcomes import Outcome
from entigraph.evaluation.questions import Article, Question, fingerprint
from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.evaluation.scores import Results
from sbp_jax.inference.sampler import Sampler
from sbp_jax.training.checkpoint import fingerprint as checkpoint_fingerprint

OPEN, FACTS = "open_book", "general_facts"
MOST = 512  # general documents that the loss is measured on
Asked = Callable[[Article, Question], str]  # with PLACE in it


@dataclass(frozen=True)
class Examination:
    """The questions, what they look like to a model, and what lies open before it."""

    articles: Sequence[Article]
    asked: Asked
    passages: Sequence[retrieval.Passage]
    facts: Sequence[Article]  # general; () where nobody asks for them
    general: str  # general text, as data.input
    per_byte: bool = True  # choices of several lengths are compared by the mean over their bytes

    @property
    def closed(self) -> str:
        return "likelihood_per_byte" if self.per_byte else "likelihood"

    def score(self, experiment: Experiment, name: str, model: str, folder: Path) -> Results:
        """Of a model, under a name; what is there already is not measured again."""
        identity = {
            "model": checkpoint_fingerprint(model),
            "asked": fingerprint([*self.articles, *self.facts]),
            "passages": [experiment.study.passages, experiment.study.passage_characters],
            "general": self.general,
        }
        record = folder / "results.json"
        if record.exists() and files.read_record(record).get("identity") == identity:
            return Results.read(folder)
        sampler = Sampler.from_checkpoint(model, experiment.engine)
        entries = {
            self.closed: self._write(folder, self.closed, self.articles, sampler, self.asked),
            OPEN: self._write(folder, OPEN, self.articles, sampler, self._open(experiment)),
            GENERAL: general_text(sampler, self.general, experiment, folder, MOST),
        }
        if self.facts:
            entries[FACTS] = self._write(folder, FACTS, self.facts, sampler, self.asked)
        told = {"name": name, "checkpoint": model, "identity": identity}
        files.write_json(record, results.assemble(told, entries, folder, experiment.seed))
        return Results.read(folder)

    def _write(
        self, folder: Path, task: str, articles: Sequence[Article], sampler: Sampler, asked: Asked
    ) -> dict[str, Any]:
        every = [(article, q) for article in articles for q in article.questions]
        prompts = [(asked(article, q), q.options) for article, q in every]
        logprobs = logprobs_of_choices(prompts, sampler)
        if self.per_byte:
            logprobs /= np.array([[len(o.encode()) for o in options] for _, options in prompts])
        best = logprobs.argmax(axis=1)
        found = [
            Outcome(question, article.text.id, int(choice))
            for (article, question), choice in zip(every, best, strict=True)
        ]
        return outcomes.write(folder, task, articles, found)

    def _open(self, experiment: Experiment) -> Asked:
        """With the nearest passages before the question, the best next to it."""
        embedder = retrieval.open_embedder(experiment, None)
        vectors = embedder.passages([passage.text for passage in self.passages])
        asked = [q for article in self.articles for q in article.questions]
        queries = embedder.queries(["\n".join([q.text, *q.options]) for q in asked])
        nearest = retrieval.search(queries, vectors, experiment.study.passages)
        found = {
            question.id: BREAK.join(self.passages[number].text for number in reversed(row))
            for question, row in zip(asked, nearest.tolist(), strict=True)
        }
        return lambda article, question: BREAK.join(
            [found[question.id], self.asked(article, question)]
        )


def in_sentences(article: Article, question: Question) -> str:
    """Questions of the toy world begin the sentence that a choice ends."""
    return f"{question.text} {PLACE}."


def by_prompt(prompts: Prompts) -> Asked:
    return lambda article, question: prompts.fill(
        "likelihood", heading=article.text.heading, question=question.text, choice=PLACE
    )


def paragraphs(articles: Sequence[Article]) -> list[retrieval.Passage]:
    """The texts of dossiers, whole: a model of the toy world has seen no other."""
    parts = ((article.text.id, article.text.text.split(BREAK)) for article in articles)
    return list(
        itertools.chain.from_iterable(
            (retrieval.Passage(id, part) for part in some) for id, some in parts
        )
    )
