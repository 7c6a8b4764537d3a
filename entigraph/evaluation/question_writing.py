"""Four-way questions about any library, written by an engine and checked by one.

A question is kept if, with the text before it, the engine finds the right choice, and without the
text does not: both are asked twice, the choices turned by two places between, so that a liking for
a letter passes for no knowledge. With the text both answers have to be right; without it, both
right are one too many (a guess gets there once in sixteen times).
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from entigraph.evaluation.answers import LETTERS, letter
from entigraph.evaluation.asking import Asker, Prompts
from entigraph.evaluation.questions import Article, Question, shown
from entigraph.generation.windows import windows
from entigraph.library import Text
from sbp_jax.inference.api.structured import conform
from sbp_jax.inference.engine import Sampling

TURNS = (0, 2)
CHECK = Sampling(max_tokens=300, temperature=0.0)
_TEXT = {"type": "string", "minLength": 1}
SCHEMA = json.dumps(
    {
        "type": "object",
        "required": ["questions"],
        "properties": {
            "questions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["question", "right", "wrong"],
                    "properties": {
                        "question": _TEXT,
                        "right": _TEXT,
                        "wrong": {"type": "array", "items": _TEXT, "minItems": 3, "maxItems": 3},
                    },
                },
            }
        },
    }
)


@dataclass(frozen=True)
class Written:
    """A question, and the window that it was made of."""

    text: Text
    question: Question


def write_questions(
    library: Sequence[Text],
    ask: Asker,
    prompts: Prompts,
    *,
    count: Callable[[str], int],
    window: int,
    per_window: int,
    new_tokens: int,
    schema: bool,  # whether the engine can be held to one
    seed: int,
) -> tuple[list[Article], dict[str, int]]:
    """Articles with the questions that passed, and what became of the others."""
    parts = {
        f"{text.id}/{number}": replace(text, text=part)
        for text in library
        for number, part in enumerate(windows(text.text, window, count))
        if part.strip()
    }
    sampling = Sampling(new_tokens, temperature=1.0, schema=SCHEMA if schema else "")
    answers = ask(
        "written",
        [
            (
                name,
                prompts.fill(
                    "write_questions", heading=t.heading, text=t.text.strip(), count=str(per_window)
                ),
            )
            for name, t in parts.items()
        ],
        sampling,
    )
    counts = {"windows": len(parts), "malformed_answers": 0, "written": 0, "malformed": 0}
    counts["repeated"] = 0
    written: list[Written] = []
    seen: set[tuple[str, str]] = set()
    for name, text in parts.items():
        try:
            rows = json.loads(conform(answers[name][0], SCHEMA, whole=False))["questions"]
        except ValueError:
            counts["malformed_answers"] += 1
            continue
        for number, row in enumerate(rows):
            counts["written"] += 1
            question = _question(f"{name}/{number}", row, seed)
            key = (text.id, " ".join(row["question"].lower().split()))
            if question is None:
                counts["malformed"] += 1
            elif key in seen:
                counts["repeated"] += 1
            else:
                seen.add(key)
                written.append(Written(text, question))
    kept, checks = _checked(written, ask, prompts)
    by_text = {text.id: text for text in library}
    made = [
        Article(by_text[id], tuple(w.question for w in kept if w.text.id == id))
        for id in dict.fromkeys(w.text.id for w in kept)
    ]
    return made, counts | checks | {"kept": len(kept)}


def _question(id: str, row: dict[str, Any], seed: int) -> Question | None:
    """With its choices in an order that does not say which is right; None where two are equal."""
    right, *wrong = (" ".join(option.split()) for option in (row["right"], *row["wrong"]))
    options = [right, *wrong]
    if len({option.lower() for option in options if option}) < len(LETTERS):
        return None
    random.Random(f"{seed}/choices/{id}").shuffle(options)
    text = " ".join(row["question"].split())
    return Question(id, text, tuple(options), options.index(right)) if text else None


def _checked(
    written: Sequence[Written], ask: Asker, prompts: Prompts
) -> tuple[list[Written], dict[str, int]]:
    """Those that the text answers and nothing else does."""
    if not written:
        return [], {"not_answerable_with": 0, "answerable_without": 0}
    known = _right(
        ask,
        "checked_with",
        written,
        lambda w, asked: prompts.fill(
            "answer_with", heading=w.text.heading, text=w.text.text.strip(), question=asked
        ),
    )
    answered = [w for w in written if known[w.question.id]]
    guessed = {}
    if answered:
        guessed = _right(
            ask,
            "checked_without",
            answered,
            lambda w, asked: prompts.fill("answer_without", question=asked),
        )
    kept = [w for w in answered if not guessed[w.question.id]]
    return kept, {
        "not_answerable_with": len(written) - len(answered),
        "answerable_without": len(answered) - len(kept),
    }


def _right(
    ask: Asker, job: str, written: Sequence[Written], prompt: Callable[[Written, str], str]
) -> dict[str, bool]:
    """Whether each was answered right, whichever way its choices were turned."""
    texts = ask(
        job,
        [
            (f"{w.question.id}/{turn}", prompt(w, shown(Article(w.text, ()), turned)))
            for w in written
            for turn, turned in _turns(w.question)
        ],
        CHECK,
    )
    return {
        w.question.id: all(
            letter(texts[f"{w.question.id}/{turn}"][0]) == turned.gold
            for turn, turned in _turns(w.question)
        )
        for w in written
    }


def _turns(question: Question) -> Iterator[tuple[int, Question]]:
    for turn in TURNS:
        options = question.options[turn:] + question.options[:turn]
        gold = (question.gold - turn) % len(options)
        yield turn, replace(question, options=options, gold=gold)
