"""Asks a model for ideas, and makes what it says into ideas, or tells it why that cannot be done.

Models wrap JSON into prose and fences, leave a comma too many, or are cut off in the middle of the
last of ten: every whole object with a title and an idea counts, wherever it stands.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from research_env.researcher import quoting
from research_env.researcher.asking import Answer, Bill, Model
from research_env.researcher.wording import Wording

TITLE, TEXT = 120, 6_000  # characters at most; more is cut
FEWEST = 20  # of an idea: less says nothing
_LOOKED_AT = 200_000  # characters of an answer, and this many brackets in it
_OBJECTS = 500
_TITLES = ("title", "name")
_TEXTS = ("idea", "text", "description", "change")


class Thought(NamedTuple):
    """An idea in words."""

    title: str
    text: str

    @property
    def whole(self) -> str:
        return f"{self.title}\n{self.text}"


class NoIdea(Exception):
    """After all that was tried."""

    def __init__(self, reason: str, said: str, shown: str, refused: bool, repeated: bool):
        super().__init__(reason)
        self.said = said  # the model's last answer
        self.shown = shown  # the prompt
        self.refused = refused  # there was no answer at all
        self.repeated = repeated  # it held ideas that were had before, and no others


def ideas(
    model: Model,
    wording: Wording,
    prompt: str,
    count: int,
    seed: str,
    bill: Bill,
    refusal: Callable[[Thought], str],
    retries: int = 2,
) -> list[Thought]:
    """From one to `count`, in the model's order; asked again with the complaint, where none is any
    good. `refusal` says what is wrong with one, or nothing and it counts as taken.
    """
    conversation = [{"role": "user", "content": prompt}]
    for attempt in range(1 + retries):
        answer = _asked(model, conversation, f"{seed} ideas {attempt}", bill)
        good, reason, repeated = _judged(answer, count, refusal)
        if good:
            return good
        if answer.text:
            conversation += [{"role": "assistant", "content": quoting.shortened(answer.text, TEXT)}]
        conversation += [{"role": "user", "content": wording.fill("again", reason=reason)}]
        # One after the other, roles have to alternate.
        if not answer.text:
            conversation = conversation[:1]
    raise NoIdea(reason, answer.text, prompt, bool(answer.error), repeated)


def _asked(model: Model, conversation: Sequence[Any], seed: str, bill: Bill) -> Answer:
    answers: Any = model.ask([conversation], seed, bill)
    with contextlib.closing(answers):
        return next(answers)[1]


def _judged(
    answer: Answer, count: int, refusal: Callable[[Thought], str]
) -> tuple[list[Thought], str, bool]:
    if answer.error:
        return [], answer.error, False
    good: list[Thought] = []
    complaints: list[str] = []
    for thought in parsed(answer.text):
        if len(good) == count or len(complaints) > 2 * count:
            break
        if wrong := refusal(thought):
            complaints.append(f"{thought.title!r}: {wrong}")
        else:
            good.append(thought)
    repeated = bool(complaints)
    if not complaints:
        complaints = ['it holds no JSON object with a "title" and an "idea"']
        if not answer.whole:
            complaints = ["it was cut off before its end; be shorter"]
    return good, "; ".join(complaints[:5]), repeated


def parsed(text: str) -> list[Thought]:
    """All that there are, in order."""
    text = text[:_LOOKED_AT]
    found = list(_thoughts(text))
    # Only where nothing is found, for within a string a comma before a bracket is content.
    return found or list(_thoughts(re.sub(r",(\s*[\]}])", r"\1", text)))


def _thoughts(text: str) -> Iterator[Thought]:
    decoder = json.JSONDecoder(strict=False)  # models break lines inside strings
    start = text.find("{")
    for _ in range(_OBJECTS):
        if start < 0:
            return
        end = start + 1
        with contextlib.suppress(ValueError, RecursionError):
            value, whole = decoder.raw_decode(text, start)
            inside = list(_inside(value))
            if inside:
                yield from inside
                end = whole
        start = text.find("{", end)


def _inside(value: Any, depth: int = 0) -> Iterator[Thought]:
    if isinstance(value, list) and depth < 4:
        for item in value:
            yield from _inside(item, depth + 1)
    if isinstance(value, dict) and depth < 4:
        title, text = (_first(value, names) for names in (_TITLES, _TEXTS))
        if text and len(text.strip()) >= FEWEST:
            shown = quoting.plain(text.strip(), TEXT)
            yield Thought(quoting.line(title or text, TITLE), shown)
        else:
            for item in value.values():
                yield from _inside(item, depth + 1)


def _first(value: dict[str, Any], names: Sequence[str]) -> str:
    return next((value[n] for n in names if isinstance(value.get(n), str)), "")
