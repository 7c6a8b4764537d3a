"""A model thinks as long as it is told to, then answers (s1, arXiv 2501.19393).

    for thought in think(engine, [Problem("1", "6*7?\n")], Forcing(most=512, waits=2)): ...

Who has thought for `most` tokens is cut off: the delimiter that ends thinking is put there, and a
lead-in to an answer. Who ends it earlier goes on, up to `waits` times: "Wait" stands where the
delimiter would, and what is left of the tokens may still be used.

It works in waves: what follows a request is in the next call of `engine.generate`, with the
follow-ups of all other problems, first thoughts and answers alike. Where the engine has a tokenizer
a text goes on from the very tokens that were drawn; elsewhere from the text.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from sbp_jax.data.tokenizer import Tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import (
    Completion,
    Engine,
    Prompt,
    Request,
    Sampling,
    prompt_ids,
)

# A text, or texts and ids one after the other: in a text "<|im_start|>" is no special token.
Piece = str | tuple[str | int, ...]


@dataclass(frozen=True)
class Style:
    """How a model is told where it thinks; the default is for one that continues plain text."""

    begin: Piece = ""  # between the prompt and the thinking
    end: Piece = "\nFinal Answer:"  # between the thinking and the answer; a text ends the thinking
    end_ids: tuple[int, ...] = ()  # end it too, as the end of the text does
    lead_in: Piece = ""  # behind `end` where the thinking was cut off
    wait: Piece = "\nWait"
    stop: tuple[str, ...] = ("\n",)  # ends an answer


STYLES = {
    "plain": Style(),
    "think": Style("<think>\n", "</think>", (), "\n\nFinal Answer:", "Wait", ()),
    # s1's, with the ids of Qwen's <|im_start|> and <|im_end|>.
    "s1": Style(
        (151644, "think\n"),
        (151644, "answer\n"),
        (151644, 151645),
        "Final Answer:",
        "Wait",
        (),
    ),
}


@dataclass(frozen=True)
class Forcing:
    most: int = 512  # tokens of thinking, over all rounds; those that spell the delimiter count
    waits: int = 0  # times that an early end is not accepted
    answer_tokens: int = 64
    style: Style = Style()


class Problem(NamedTuple):
    id: str
    prompt: Prompt
    sample: int = 0  # of several for a problem: each has other seeds


class Thought(NamedTuple):
    id: str
    sample: int
    thinking: str
    answer: str  # with the delimiter and the lead-in
    thinking_tokens: int  # drawn by the model: no "Wait" is one
    answer_tokens: int
    waits: int  # early ends that were not accepted
    cut: bool  # whether the limit has ended it
    rounds: int  # requests
    error: str = ""


class _Run(NamedTuple):
    problem: Problem
    context: tuple[int, ...] | str  # all that there is: as ids, or as a text without a tokenizer
    thought: Thought
    answering: bool = False


def think(
    engine: Engine,
    problems: Iterable[Problem],
    forcing: Forcing,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> Iterator[Thought]:
    """As they finish. Of `sampling`, temperature and what it draws from are used. A thought depends
    on the seed, its problem and its sample, not on the others.
    """
    forced = _Forced(engine.tokenizer, forcing, sampling or Sampling(), seed)
    wave: Iterable[_Run] = map(forced.begin, problems)
    while wave:
        running: dict[str, _Run] = {}
        follow_ups: list[_Run] = []
        for completion in engine.generate(_requests(forced, wave, running)):
            after = forced.after(running.pop(completion.id), completion)
            if isinstance(after, Thought):
                yield after
            else:
                follow_ups.append(after)
        wave = follow_ups


def _requests(
    forced: "_Forced", wave: Iterable[_Run], running: dict[str, _Run]
) -> Iterator[Request]:
    for number, run in enumerate(wave):
        running[str(number)] = run
        yield forced.request(str(number), run)


class _Forced:
    def __init__(
        self, tokenizer: Tokenizer | None, forcing: Forcing, sampling: Sampling, seed: int
    ):
        self._tokenizer, self._forcing, self._seed = tokenizer, forcing, seed
        style = forcing.style
        end = (style.end,) if isinstance(style.end, str) else ()
        self._thinks = replace(sampling, stop=end, stop_ids=style.end_ids)
        self._answers = replace(
            sampling, stop=style.stop, stop_ids=(), max_tokens=forcing.answer_tokens
        )

    def begin(self, problem: Problem) -> _Run:
        if self._tokenizer:
            context: tuple[int, ...] | str = tuple(prompt_ids(self._tokenizer, problem.prompt))
        elif isinstance(problem.prompt, str):
            context = problem.prompt
        else:
            raise UserError(
                f"problem {problem.id}: this engine has no tokenizer, so that only a text can be "
                "gone on with; give the prompt as text"
            )
        thought = Thought(problem.id, problem.sample, "", "", 0, 0, 0, False, 0)
        run = self._put(_Run(problem, context, thought), self._forcing.style.begin)
        return run if self._forcing.most > 0 else self._answer(run, cut=True)

    def request(self, name: str, run: _Run) -> Request:
        problem, thought = run.problem, run.thought
        left = self._forcing.most - thought.thinking_tokens
        sampling = self._answers if run.answering else replace(self._thinks, max_tokens=left)
        what = f"{self._seed} {problem.sample} {thought.rounds} {problem.id}"
        digest = hashlib.blake2b(what.encode("utf-8", "replace"), digest_size=8).digest()
        return Request(name, run.context, sampling, int.from_bytes(digest, "little") >> 1)

    def after(self, run: _Run, completion: Completion) -> _Run | Thought:
        thought = run.thought._replace(rounds=run.thought.rounds + 1)
        if completion.finish_reason == "error":
            return thought._replace(error=completion.error)
        new = completion.new_tokens
        if run.answering:
            return thought._replace(answer=thought.answer + completion.text, answer_tokens=new)
        thought = thought._replace(
            thinking=thought.thinking + completion.text,
            thinking_tokens=thought.thinking_tokens + new,
        )
        run = run._replace(thought=thought, context=self._with(run.context, completion))
        ended = completion.finish_reason == "stop"
        # A limit that is not ours is the end of the engine's context: no more thinking there.
        left = self._forcing.most - thought.thinking_tokens
        if not ended or thought.waits == self._forcing.waits or left < 1:
            return self._answer(run, cut=not ended)
        wait = self._forcing.style.wait
        thought = thought._replace(waits=thought.waits + 1, thinking=thought.thinking + _text(wait))
        return self._put(run._replace(thought=thought), wait)

    def _answer(self, run: _Run, cut: bool) -> _Run:
        style = self._forcing.style
        pieces = (style.end, style.lead_in) if cut else (style.end,)
        for piece in pieces:
            run = self._put(run, piece)
        thought = run.thought._replace(cut=cut, answer="".join(map(_text, pieces)))
        return run._replace(thought=thought, answering=True)

    def _put(self, run: _Run, piece: Piece) -> _Run:
        parts = (piece,) if isinstance(piece, str) else piece
        context = run.context
        if isinstance(context, str):
            if not all(isinstance(part, str) for part in parts):
                raise UserError(
                    "this style of thinking has token ids, and the engine takes texts only; give "
                    "its delimiters as texts"
                )
            return run._replace(context=context + _text(piece))
        for part in parts:
            context += (part,) if isinstance(part, int) else self._encode(part)
        return run._replace(context=context)

    def _with(self, context: tuple[int, ...] | str, completion: Completion) -> "tuple | str":
        """What there was and what was drawn, up to the delimiter."""
        if isinstance(context, str):
            return context + completion.text
        assert self._tokenizer
        # The delimiter may begin within a token, of which the rest is a text.
        tokens = completion.tokens
        while not completion.text.startswith(kept := self._tokenizer.decode(tokens)):
            tokens = tokens[:-1]
        return context + tokens + self._encode(completion.text[len(kept) :])

    def _encode(self, text: str) -> tuple[int, ...]:
        assert self._tokenizer
        return tuple(self._tokenizer.encode([text])[0]) if text else ()


def _text(piece: Piece) -> str:
    return piece if isinstance(piece, str) else "".join(p for p in piece if isinstance(p, str))
