"""Does a model know its articles by heart? Five worked examples, then the question: it thinks, then
names a letter.

As in the paper, several texts are drawn for each question at a low temperature, and one of those
with a letter in it, taken at random, is the answer: no vote. Unlike the released code, a question
without any such text counts as wrong.
"""

import random
from collections.abc import Iterable, Sequence

from entigraph.evaluation.answers import LETTERS, letter
from entigraph.evaluation.asking import Asker, Prompts
from entigraph.evaluation.outcomes import Outcome
from entigraph.evaluation.questions import Article, Question, shown
from sbp_jax.inference.engine import Sampling

# Where a base model goes on with a next example of its own.
STOP = ("\nText:", "\nQuestion:", "\nPassages")


def closed_book(
    articles: Sequence[Article],
    ask: Asker,
    prompts: Prompts,
    sampling: Sampling,
    samples: int,
    seed: int,
) -> list[Outcome]:
    asked = [
        (article, question, prompts.fill("closed_book", question=shown(article, question)))
        for article in articles
        for question in article.questions
    ]
    return answered("closed_book", asked, ask, sampling, samples, seed)


def answered(
    job: str,
    asked: Iterable[tuple[Article, Question, str]],
    ask: Asker,
    sampling: Sampling,
    samples: int,
    seed: int,
) -> list[Outcome]:
    """What comes of a prompt for each question."""
    asked = list(asked)
    texts = ask(job, [(q.id, prompt) for _, q, prompt in asked], sampling, samples)
    return [outcome(article, question, texts[question.id], seed) for article, question, _ in asked]


def outcome(article: Article, question: Question, texts: Sequence[str], seed: int) -> Outcome:
    found = [letter(own_part(text)) for text in texts]
    named = [choice for choice in found if choice is not None]
    answer = random.Random(f"{seed}/{question.id}").choice(named) if named else None
    marks = "".join("-" if choice is None else LETTERS[choice] for choice in found)
    return Outcome(question, article.text.id, answer, marks)


def own_part(text: str) -> str:
    """Before any question that a model asks itself: not every engine knows stop texts."""
    return text[: min((place for s in STOP if (place := text.find(s)) >= 0), default=len(text))]
