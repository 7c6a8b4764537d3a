"""A language model, asked within a budget: any engine of sbp_jax.inference, opened when first
needed, its tokens and cost counted.

What a request may use at most is set aside before it is sent, so that a cap is never passed, and
given back when the answer has said what it did use. Requests that are dropped, because another of
the same question was good enough, are counted with their prompt and as many new tokens as the
longest answer before: a server has computed about that much and says nothing of it.
"""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from research_env.researcher.interface import BudgetSpent
from sbp_jax.inference.budget_forcing import Forcing, Problem, think
from sbp_jax.inference.engine import Engine, EngineDied, Prompt, Request, Sampling

Conversation = Sequence[Mapping[str, str]]  # {"role": user | assistant, "content": ...}


class Spent(NamedTuple):
    tokens: int = 0  # of prompts and answers
    cost: float = 0.0

    def plus(self, other: "Spent") -> "Spent":
        return Spent(self.tokens + other.tokens, self.cost + other.cost)

    def less(self, other: "Spent") -> "Spent":
        return Spent(self.tokens - other.tokens, self.cost - other.cost)


class Purse:
    """Of a whole search, shared by all who ask."""

    def __init__(self, max_tokens: int | None = None, max_cost: float | None = None):
        self._max_tokens, self._max_cost = max_tokens, max_cost
        self.spent = Spent()  # with what is set aside
        self._begun = False
        self._lock = threading.Lock()

    def begin(self, spent: Callable[[], Spent]) -> None:
        """With what was spent before, which is looked up once."""
        with self._lock:
            if not self._begun:
                self.spent = self.spent.plus(spent())
            self._begun = True

    def set_aside(self, most: Spent) -> None:
        with self._lock:
            after = self.spent.plus(most)
            for name, value, cap in (
                ("tokens", after.tokens, self._max_tokens),
                ("cost", after.cost, self._max_cost),
            ):
                if cap is not None and value > cap:
                    raise BudgetSpent(f"the next request may pass the cap of {cap:g} ({name})")
            self.spent = after

    def settle(self, most: Spent, used: Spent) -> None:
        with self._lock:
            self.spent = self.spent.less(most).plus(used)


class Answer(NamedTuple):
    text: str  # without thinking
    whole: bool = True  # the model ended it, no limit
    error: str = ""


class Found(NamedTuple):
    place: int
    answer: Answer
    used: Spent
    read: int  # tokens of the prompt
    drawn: int  # and of the answer


@dataclass(frozen=True)
class Manner:
    """How a model is asked."""

    chat: bool = True  # the prompt is a conversation; else it is a text to be gone on with
    temperature: float = 1.0
    top_p: float = 1.0
    answer_tokens: int = 8192
    forcing: Forcing | None = None  # how long it thinks, where we say it


class Model:
    def __init__(self, opener: Callable[[], Engine], name: str, manner: Manner, purse: Purse):
        """`name` is for records."""
        self.name, self.manner, self.purse = name, manner, purse
        self._opener = opener
        self._engine: Engine | None = None
        self._opening = threading.Lock()
        self._turn = threading.RLock()  # an engine on this machine answers one caller at a time

    def count(self, text: str) -> int:
        """Tokens, rather too many."""
        return self._open().prompt_tokens(text)

    def close(self) -> None:
        with self._opening:
            if self._engine is not None:
                self._engine.close()
            self._engine = None

    def ask(
        self, conversations: Sequence[Conversation], seed: str, bill: "Bill"
    ) -> Iterator[tuple[int, Answer]]:
        """The answers under their conversations' places, as they finish; closing it drops the
        others. Those first in line are asked as far as the budget goes; `BudgetSpent` where it does
        not go at all.
        """
        prompts = [self._prompt(conversation) for conversation in conversations]
        for attempt in range(2):
            engine, begun = self._open(), False
            serial = engine.tokenizer is not None
            with self._turn if serial else contextlib.nullcontext():
                try:
                    for answer in self._asked(engine, prompts, seed, bill):
                        begun = True
                        yield answer
                    return
                except EngineDied:
                    if attempt or begun or not serial:
                        raise
                    self.close()  # another process may do what this one could not

    def _open(self) -> Engine:
        with self._opening:
            if self._engine is None:
                self._engine = self._opener()
            return self._engine

    def _prompt(self, conversation: Conversation) -> Prompt:
        if self.manner.chat:
            return tuple(conversation)
        return "\n\n".join(message["content"] for message in conversation) + "\n"

    def _asked(
        self, engine: Engine, prompts: Sequence[Prompt], seed: str, bill: "Bill"
    ) -> Iterator[tuple[int, Answer]]:
        longest = 0  # answer so far
        measured: list[tuple[Prompt, int]] = []
        open_ones: dict[int, Spent] = {}  # what is set aside for whom
        for place, prompt in enumerate(prompts):
            most = self._most(engine, prompt)
            try:
                self.purse.set_aside(most)
            except BudgetSpent:
                if not open_ones:
                    raise
                break
            open_ones[place] = most

        def settle(place: int, used: Spent) -> None:
            self.purse.settle(open_ones.pop(place), used)
            bill.add(used)

        asked = prompts[: len(open_ones)]
        found = (self._thoughts if self.manner.forcing else self._completions)(engine, asked, seed)
        try:
            for place, answer, used, read, drawn in found:
                longest = max(longest, drawn)
                measured.append((prompts[place], read))
                settle(place, used)
                yield place, answer
        finally:
            found.close()
            for place in list(open_ones):
                same = [read for prompt, read in measured if prompt == prompts[place]]
                read = max(same, default=0) or engine.prompt_tokens(prompts[place])
                settle(place, Spent(read + longest, engine.cost(read, longest)))

    def _most(self, engine: Engine, prompt: Prompt) -> Spent:
        """That a request may use."""
        read, new = engine.prompt_tokens(prompt), self.manner.answer_tokens
        if forcing := self.manner.forcing:
            # Each round reads again what was thought before it.
            read = (forcing.waits + 2) * (read + forcing.most)
            new += forcing.most
        return Spent(read + new, engine.cost(read, new))

    def _completions(
        self, engine: Engine, prompts: Sequence[Prompt], seed: str
    ) -> Generator[Found, None, None]:
        manner = self.manner
        sampling = Sampling(manner.answer_tokens, manner.temperature, manner.top_p)
        requests = (
            Request(str(i), prompt, sampling, _seed(seed, i)) for i, prompt in enumerate(prompts)
        )
        completions: Any = engine.generate(requests)
        with contextlib.closing(completions):
            for c in completions:
                used = Spent(c.prompt_tokens + c.new_tokens, c.cost)
                used = used._replace(cost=c.cost or engine.cost(c.prompt_tokens, c.new_tokens))
                answer = Answer(_answer(c.text), c.finish_reason != "length", c.error)
                yield Found(int(c.id), answer, used, c.prompt_tokens, c.new_tokens)

    def _thoughts(
        self, engine: Engine, prompts: Sequence[Prompt], seed: str
    ) -> Generator[Found, None, None]:
        manner = self.manner
        assert manner.forcing
        forcing = replace(manner.forcing, answer_tokens=manner.answer_tokens)
        sampling = Sampling(temperature=manner.temperature, top_p=manner.top_p)
        problems = [Problem(str(i), prompt) for i, prompt in enumerate(prompts)]
        thoughts: Any = think(engine, problems, forcing, sampling, _seed(seed, 0))
        with contextlib.closing(thoughts):
            for t in thoughts:
                new = t.thinking_tokens + t.answer_tokens
                read = t.rounds * engine.prompt_tokens(prompts[int(t.id)])
                read += max(0, t.rounds - 1) * t.thinking_tokens
                text = t.answer
                for piece in (forcing.style.end, forcing.style.lead_in):
                    parts = (piece,) if isinstance(piece, str) else piece
                    text = text.removeprefix("".join(p for p in parts if isinstance(p, str)))
                answer = Answer(_answer(text), t.answer_tokens < forcing.answer_tokens, t.error)
                yield Found(int(t.id), answer, Spent(read + new, engine.cost(read, new)), read, new)


class Bill:
    """What one idea has cost so far."""

    def __init__(self) -> None:
        self.spent = Spent()

    def add(self, used: Spent) -> None:
        self.spent = self.spent.plus(used)

    def take(self) -> Spent:
        """All of it, which is then paid for."""
        spent, self.spent = self.spent, Spent()
        return spent


def _answer(text: str) -> str:
    """Models that think on their own do so between tags, or up to the closing one."""
    return text.rpartition("</think>")[2].strip()


def _seed(seed: str, number: int) -> int:
    digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
