"""Four-way questions about articles, in the form in which QuALITY is released.

A line is an article and one writer's questions about it: article_id, title, author, year, article
(may be absent), questions: [{question, options, gold_label (from 1), difficult (0 or 1, may be
absent), question_unique_id}]. Lines of one title and author are one article. Its text, where it is
there, is a `Text` of the library.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath

from entigraph.evaluation.answers import LETTERS
from entigraph.library import Text
from sbp_jax import files
from sbp_jax.errors import UserError

VALIDATION = 0.2  # share of the articles, in the order of their titles, on which choices are made
SPLITS = ("all", "validation", "test")


@dataclass(frozen=True)
class Question:
    id: str
    text: str
    options: tuple[str, ...]
    gold: int  # from 0
    difficult: bool | None = None  # the hard half; None where nobody has said


@dataclass(frozen=True)
class Article:
    text: Text  # its text may be ""
    questions: tuple[Question, ...]


def read_questions(spec: str) -> list[Article]:
    """Of a file, or of several with commas between them, in the order of the titles."""
    articles: dict[tuple[str, str], Article] = {}
    owners: dict[str, tuple[str, str]] = {}  # of article ids
    seen: set[str] = set()  # ids of questions
    for path in filter(None, (part.strip() for part in spec.split(","))):
        for number, line in enumerate(_lines(path), start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            new = _article(where, line)
            name = new.text.title, new.text.author
            if owners.setdefault(new.text.id, name) != name:
                raise UserError(f"{where}: article_id {new.text.id!r} is another article's as well")
            for question in new.questions:
                if question.id in seen:
                    raise UserError(f"{where}: question_unique_id {question.id!r} is there twice")
                seen.add(question.id)
            old = articles.get(name)
            articles[name] = _merged(where, old, new) if old else new
    if not seen:
        raise UserError(f"{spec}: no question in it")
    return sorted(articles.values(), key=lambda a: (a.text.title, a.text.author))


def split(articles: Sequence[Article], name: str) -> list[Article]:
    """The first fifth of the titles is for validation, the rest is the test, as in the paper; of
    two articles or more, both have at least one.
    """
    if name == "all":
        return list(articles)
    cut = min(max(int(VALIDATION * len(articles)), 1), len(articles) - 1)
    part = articles[:cut] if name == "validation" else articles[cut:]
    if not part:
        raise UserError(f"the {name} split is empty: {len(articles)} article in the question file")
    return list(part)


def fingerprint(articles: Sequence[Article]) -> str:
    """Of the questions, for records; not of the articles' texts."""
    rows = [[a.text.heading, [[*vars(q).values()] for q in a.questions]] for a in articles]
    return files.sha256(json.dumps(rows).encode())


def shown(article: Article, question: Question) -> str:
    """As prompts have it. Without its article, the heading is all that says what it is about."""
    choices = zip(LETTERS, question.options, strict=False)
    lines = [f"Text: {article.text.heading}", f"Question: {question.text}"]
    return "\n".join([*lines, *(f"{letter}. {choice}" for letter, choice in choices)])


def line_of(article: Article) -> str:
    """The article as a line of a question file, its text included."""
    text = article.text
    row = {
        "article_id": text.id,
        "title": text.title,
        "author": text.author,
        "year": text.year,
        "article": text.text,
        "questions": [
            {
                "question_unique_id": q.id,
                "question": q.text,
                "options": list(q.options),
                "gold_label": q.gold + 1,
            }
            | ({} if q.difficult is None else {"difficult": int(q.difficult)})
            for q in article.questions
        ],
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def _lines(path: str) -> list[str]:
    try:
        return epath.Path(path).read_text().removeprefix("\ufeff").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error


def _article(where: str, line: str) -> Article:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}; a line is an article") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: {type(row).__name__} where an article's object should be")
    title, author, year = (_line(row.get(name)) for name in ("title", "author", "year"))
    if not title:
        raise UserError(f"{where}: no title; a question names its article by it")
    text = row.get("article") or ""
    if not isinstance(text, str):
        raise UserError(f"{where}: article is no text")
    questions = row.get("questions")
    if not isinstance(questions, list) or not questions:
        raise UserError(f"{where}: questions is no list with questions in it")
    id = _line(row.get("article_id")) or files.sha256(f"{title}\n{author}".encode())[:12]
    numbered = enumerate(questions, start=1)
    return Article(
        Text(id, title, author, year, text),
        tuple(_question(f"{where}: question {n}", q, f"{id}_{n}") for n, q in numbered),
    )


def _question(where: str, row: Any, id: str) -> Question:
    if not isinstance(row, dict):
        raise UserError(f"{where}: {type(row).__name__} where an object should be")
    text, options, label = (row.get(name) for name in ("question", "options", "gold_label"))
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: question is no text")
    if not isinstance(options, list) or not all(isinstance(o, str) and o.strip() for o in options):
        raise UserError(f"{where}: options is no list of texts")
    if len(options) != len(LETTERS):
        raise UserError(f"{where}: {len(options)} options; there should be {len(LETTERS)}")
    if type(label) is not int or not 1 <= label <= len(options):
        raise UserError(
            f"{where}: gold_label is {label!r}; it is the right option's number, from 1 to "
            f"{len(options)} (QuALITY's own test set has none: use its train and dev files)"
        )
    difficult = row.get("difficult")
    if difficult not in (None, 0, 1):
        raise UserError(f"{where}: difficult is {difficult!r}, neither 0 nor 1")
    return Question(
        _line(row.get("question_unique_id")) or id,
        _line(text),
        tuple(_line(option) for option in options),
        label - 1,
        None if difficult is None else bool(difficult),
    )


def _merged(where: str, old: Article, new: Article) -> Article:
    texts = {article.text.text for article in (old, new) if article.text.text}
    if len(texts) > 1:
        raise UserError(
            f"{where}: another text than before under the title {new.text.title!r} and the same "
            "author; give one of them another title"
        )
    whole = old.text if old.text.text else new.text
    return Article(whole, old.questions + new.questions)


def _line(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())
