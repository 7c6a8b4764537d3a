"""What generates text, seen from outside: requests in, completions out as they finish.

An engine takes the next request when it has room for one, so a stream of any length is fine and
back-pressure needs no queue. Completions come in any order, each under its request's id. A request
that cannot be answered is a completion too, with the reason; only an engine that is itself broken
raises.

A text may end at an id (`stop_ids`) or at a text (`stop`). The id is no part of the completion's
tokens; the tokens that spell a stop text are, for they need not begin where it does, and who trains
on a text needs those that belong to its log-probabilities.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from sbp_jax.config import Experiment
from sbp_jax.data.tokenizer import Tokenizer
from sbp_jax.errors import UserError

# A text (the engine puts its begin-of-text before it), token ids as they are, or a conversation of
# {"role": ..., "content": ...}.
Prompt = str | tuple[int, ...] | tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Sampling:
    """How to draw; shared by many requests."""

    max_tokens: int = 256
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is any token
    stop_ids: tuple[int, ...] = ()  # end a text, beside the model's own end-of-text
    logprobs: bool = False  # of each new token, under the model as it is: at temperature 1
    schema: str = ""  # JSON schema that the text has to follow
    stop: tuple[str, ...] = ()  # texts that end a text; what the prompt has does not count

    def __post_init__(self) -> None:
        if "" in self.stop:
            raise UserError("a stop text is empty, so every text would end before it begins")

    def settings(self) -> dict[str, Any]:
        """The fields, for names and records. Without stop texts they are what they were before
        there were any, and so are the names of requests.
        """
        return {name: value for name, value in vars(self).items() if name != "stop" or value}


class Request(NamedTuple):
    id: str
    prompt: Prompt
    sampling: Sampling
    seed: int = 0  # the text depends on it, not on what else is being generated


class Completion(NamedTuple):
    id: str
    text: str  # without what ended it
    finish_reason: str  # stop | length | error
    prompt_tokens: int = 0
    new_tokens: int = 0  # counts the id that ended it, or those that spell the stop text
    # Without the id that ended it, but with those that spell the stop text: so one less than
    # new_tokens, or as many. () where the engine has texts only.
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()  # one for each of the new tokens
    error: str = ""
    cost: float = 0.0  # in the currency of the price table
    ended_by: int | None = None  # the id, where one ended it


class Engine(Protocol):
    @property
    def fingerprint(self) -> str:
        """Of the model: another one means other texts."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None where only a server has it."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Ends when all requests have been answered; closing it drops those in flight."""
        ...

    def prompt_tokens(self, prompt: Prompt) -> int:
        """Exact where the engine has a tokenizer, else rather too many."""
        ...

    def cost(self, prompt_tokens: int, new_tokens: int) -> float: ...

    def close(self) -> None: ...


class EngineDied(RuntimeError):
    """The engine is broken, and so is every request in flight; another one may do."""


@dataclass(frozen=True)
class EngineOpener:
    """Opens an engine, here or wherever it is sent. `jax` and `vllm` run a checkpoint, `api` asks a
    server.
    """

    kind: str
    experiment: Experiment
    checkpoint: str | None
    export_to: str  # folder for vLLM's copy of a checkpoint

    def __call__(self) -> Engine:
        if self.kind == "api":
            from sbp_jax.inference.api import Api

            return Api(self.experiment.api)
        if self.kind == "vllm":
            from sbp_jax.inference.vllm import Vllm

            return Vllm.from_checkpoint(self._named(), self.experiment.engine, self.export_to)
        from sbp_jax.inference.sampler import Sampler

        return Sampler.from_checkpoint(self._named(), self.experiment.engine)

    def fingerprint(self) -> str:
        """The engine's, without opening one that takes long."""
        if self.kind == "api":
            return self().fingerprint
        checkpoint = self._named()
        from sbp_jax.training.checkpoint import fingerprint

        return fingerprint(checkpoint)

    def _named(self) -> str:
        if not self.checkpoint:
            raise UserError(f"--checkpoint is missing: the run whose model {self.kind} runs")
        return self.checkpoint


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """The ids that an engine with a tokenizer of ours begins with."""
    if isinstance(prompt, str):
        begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        return begin + tokenizer.encode([prompt])[0]
    if prompt and isinstance(prompt[0], Mapping):
        messages: Any = prompt
        return tokenizer.encode_chat(messages)
    ids: Any = prompt
    return list(ids)


def stopped(
    tokenizer: Tokenizer, tokens: Sequence[int], stop: Sequence[str], seen: int = 0
) -> tuple[int, str] | None:
    """Where a stop text ends a text: the fewest of its tokens whose text has one, and that text up
    to the first. The first `seen` tokens are known to have none.

    It looks at the text after each token, not only at what there is so far: the result depends on
    the tokens alone, however many of them an engine draws at a time.
    """
    if not stop:
        return None
    longest = max(map(len, stop))
    width = max(len(text.encode()) for text in stop) + 8  # tokens: each has a byte, or no text
    for count in range(seen + 1, len(tokens) + 1):
        end = _end(tokenizer, tokens[:count], width, longest)
        if any(text in end for text in stop):
            whole = tokenizer.decode(tokens[:count])
            if places := [whole.find(text) for text in stop if text in whole]:
                return count, whole[: min(places)]
    return None


def _end(tokenizer: Tokenizer, tokens: Sequence[int], width: int, longest: int) -> str:
    """The text of the last tokens, or of all where these do not suffice."""
    for start in range(len(tokens) - width, len(tokens) - width - 4, -1):
        if start <= 0:
            break
        text = tokenizer.decode(tokens[start:])
        # Else it begins within a character, whose bytes may be several tokens.
        if not text.startswith("\ufffd") and len(text) > longest:
            return text
    return tokenizer.decode(tokens)


def complete(
    tokenizer: Tokenizer,
    request: Request,
    prompt_tokens: int,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    by_id: bool,
    seen: int = 0,
) -> Completion:
    """Of the tokens that were drawn, ended at a stop text, by the last of them, or by the limit."""
    kept = tokens[:-1] if by_id else tokens
    found = stopped(tokenizer, kept, request.sampling.stop, seen)
    if found:
        count, text = found
        tokens = kept = tokens[:count]
    else:
        text = tokenizer.decode(kept)
    return Completion(
        request.id,
        text,
        "stop" if found or by_id else "length",
        prompt_tokens=prompt_tokens,
        new_tokens=len(tokens),
        tokens=tuple(kept),
        logprobs=tuple(logprobs[: len(tokens)]) if request.sampling.logprobs else (),
        ended_by=tokens[-1] if by_id and not found else None,
    )
