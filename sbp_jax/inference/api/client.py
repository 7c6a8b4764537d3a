"""The engine that asks a server: any OpenAI-compatible one (`vllm serve` included) or Anthropic's.

    vllm serve exported --generation-config vllm
    python -m sbp_jax.synthesize --engine=api --config.api.model=exported ...

(vLLM's CPU build 0.32 has its command fail; `python -m vllm.entrypoints.openai.api_server --model
exported` is the same server.)

A request that fails although it was tried often waits for its verdict until another one is
answered: then the fault is its own, and it becomes an error completion. When nobody is answered any
more, the engine has died.
"""

import asyncio
import contextlib
import json
import logging
import queue
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from sbp_jax import files
from sbp_jax.config import ApiConfig
from sbp_jax.errors import UserError
from sbp_jax.inference.api import structured, wire
from sbp_jax.inference.api.endpoint import Endpoint, Trouble
from sbp_jax.inference.api.pace import Bucket, Clock, Gate, back_off
from sbp_jax.inference.engine import Completion, EngineDied, Prompt, Request, Sampling

if TYPE_CHECKING:
    import httpx

REPAIRS = 2  # times that a text which does not follow its schema is asked for again
LONGEST_WAIT = 3600.0  # seconds that a server may ask for
log = logging.getLogger(__name__)


class _Session(NamedTuple):
    """What the attempts of one call of `generate` share."""

    client: "httpx.AsyncClient"
    gate: Gate


class _Answer(NamedTuple):
    completion: Completion
    doubtful: bool = False  # an error that may be the server's


class Api:
    tokenizer = None

    def __init__(self, config: ApiConfig, clock: Clock | None = None):
        try:
            import httpx  # noqa: F401
        except ImportError as error:
            raise UserError('asking a server needs httpx: pip install "sbp-jax[api]"') from error
        if not config.model:
            raise UserError("config.api.model is empty; give the name that the server knows it by")
        self.config = config
        self._endpoint = Endpoint(config)
        self._clock = clock or Clock()
        self._requests = Bucket(config.requests_per_minute)
        self._tokens = Bucket(config.tokens_per_minute)
        self._new_name = False  # this server has another name for max_tokens

    @property
    def fingerprint(self) -> str:
        """Of the place and the name: what the server has behind them it does not say."""
        place = [self.config.protocol, self._endpoint.url, self.config.model]
        return files.sha256(json.dumps(place).encode())

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        source = iter(requests)
        answers: queue.SimpleQueue[_Answer | BaseException] = queue.SimpleQueue()
        doubtful: list[Completion] = []
        waiting, more, answered, died = 0, True, False, False
        with self._serving(answers) as hand_over:
            while not died:
                while more and waiting < self.config.concurrency and answers.empty():
                    request = next(source, None)
                    if request is None:
                        more = False
                    else:
                        if request.sampling.schema:
                            structured.schema_validator(request.sampling.schema)
                        hand_over(request)
                        waiting += 1
                if not waiting:
                    break
                answer = answers.get()
                waiting -= 1
                if isinstance(answer, BaseException):
                    raise answer
                if answer.doubtful:
                    doubtful.append(answer.completion)
                    died = len(doubtful) > max(self.config.concurrency, 16)
                else:
                    answered = True
                    yield answer.completion
                    yield from doubtful
                    doubtful.clear()
        if doubtful and (died or not answered):
            raise EngineDied(f"{self._endpoint.url}: nobody is answered: {doubtful[-1].error}")
        yield from doubtful

    def prompt_tokens(self, prompt: Prompt) -> int:
        """One for every two bytes of UTF-8, and eight for the frame of a message: vocabularies of
        today take fewer. Ids are counted.
        """
        if isinstance(prompt, str):
            return _estimate(prompt) + 8
        if wire.is_conversation(prompt):
            messages: Any = prompt
            return sum(_estimate(message["content"]) + 8 for message in messages)
        return len(prompt)

    def cost(self, prompt_tokens: int, new_tokens: int) -> float:
        prices = self.config.input_price, self.config.output_price
        return (prompt_tokens * prices[0] + new_tokens * prices[1]) / 1e6

    def close(self) -> None:
        """Nothing is open outside of `generate`."""

    @contextlib.contextmanager
    def _serving(
        self, answers: "queue.SimpleQueue[_Answer | BaseException]"
    ) -> Iterator[Callable[[Request], None]]:
        """A thread with an event loop that answers what it is handed; at the end it is gone, and
        with it what was in flight.
        """
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        loop = runner.get_loop()
        inbox: asyncio.Queue[Request | None] = asyncio.Queue()

        def serve() -> None:
            try:
                with runner:
                    runner.run(self._serve(inbox, answers.put))
            except BaseException as error:
                answers.put(error)

        def hand_over(request: Request | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has failed; `answers` has why
                loop.call_soon_threadsafe(inbox.put_nowait, request)

        thread = threading.Thread(target=serve, name="sbp_jax-api", daemon=True)
        thread.start()
        try:
            yield hand_over
        finally:
            hand_over(None)
            thread.join()

    async def _serve(
        self,
        inbox: "asyncio.Queue[Request | None]",
        put: Callable[[_Answer | BaseException], None],
    ) -> None:
        async def answer(request: Request) -> None:
            try:
                put(await self._answer(session, request))
            except Exception as error:
                put(error)

        tasks: set[asyncio.Task[None]] = set()
        async with self._endpoint.client() as client:
            session = _Session(client, Gate(self._requests, self._tokens, self._clock))
            try:
                while (request := await inbox.get()) is not None:
                    task = asyncio.create_task(answer(request))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, session: _Session, request: Request) -> _Answer:
        """Asks, and where the text does not follow its schema says so and asks again."""
        prompt, sampling = request.prompt, request.sampling
        draw = random.Random(f"{request.seed} {request.id}")
        prompt_tokens = new_tokens = 0
        wrong = ""
        for attempt in range(1 + REPAIRS):
            reply = await self._ask(session, prompt, sampling, request.seed + attempt, draw)
            if isinstance(reply, Trouble):
                break
            prompt_tokens += reply.prompt_tokens or 0
            new_tokens += reply.new_tokens or 0
            if reply.error or not sampling.schema:
                break
            try:
                whole = reply.finish_reason == "stop"
                text = structured.conform(reply.text, sampling.schema, whole)
                # Its tokens may be those of another text: one that was mended.
                reply = reply._replace(text=text, tokens=(), logprobs=())
                break
            except ValueError as error:
                wrong = str(error)
            if wire.is_conversation(prompt):  # a bare text has no place for a complaint
                prompt = (*prompt, *_complaint(reply.text, wrong))  # type: ignore[assignment]
            reply = reply._replace(error=f"schema: {wrong}")
        cost = self.cost(prompt_tokens, new_tokens)
        done = Completion(request.id, "", "error", prompt_tokens, new_tokens, cost=cost)
        if isinstance(reply, Trouble):
            reason = f"schema: {wrong}; then: {reply.reason}" if wrong else reply.reason
            return _Answer(done._replace(error=reason), doubtful=reply.kind == "broken")
        if reply.error:
            return _Answer(done._replace(error=reply.error))
        text, reason = reply.text, reply.finish_reason
        for stop in sampling.stop:  # of several within a token, vLLM does not take the first
            text = text.partition(stop)[0]
        return _Answer(
            done._replace(
                text=text, finish_reason=reason, tokens=reply.tokens, logprobs=reply.logprobs
            )
        )

    async def _ask(
        self,
        session: _Session,
        prompt: Prompt,
        sampling: Sampling,
        seed: int,
        draw: random.Random,
    ) -> wire.Reply | Trouble:
        """Tries until there is a reply, its tokens counted, or no use in trying."""
        endpoint, gate = self._endpoint, session.gate
        try:
            path, body = endpoint.protocol.request(self.config.model, prompt, sampling, seed)
        except wire.Unsupported as error:
            return Trouble("refused", str(error))
        chat = path == "/chat/completions"
        expected = self.prompt_tokens(prompt)
        most = expected + sampling.max_tokens
        failures = in_a_row = 0
        answered = endpoint.answered
        while True:
            if chat and self._new_name and "max_tokens" in body:
                body["max_completion_tokens"] = body.pop("max_tokens")
            await gate.enter(most)
            found = await endpoint.attempt(session.client, path, json.dumps(body).encode())
            if isinstance(found, wire.Reply):
                found = _counted(found, expected, sampling.max_tokens)
                gate.give_back(most - (found.prompt_tokens or 0) - (found.new_tokens or 0))
                return found
            if found.unused:
                gate.give_back(most)
            if found.kind == "refused":
                if chat and "max_tokens" in body and "max_completion_tokens" in found.reason:
                    self._new_name = True  # OpenAI's newer models
                    continue
                return found
            failures += 1
            # A server that serves others is there, however often it has no time for this one.
            serves = found.kind != "broken" and endpoint.answered > answered
            in_a_row = 1 if serves else in_a_row + 1
            answered = endpoint.answered
            if in_a_row > self.config.retries:
                if found.kind == "broken":
                    return found
                raise EngineDied(f"{endpoint.url}: {found.reason}")
            if found.wait is not None and found.wait > LONGEST_WAIT:
                raise UserError(
                    f"{endpoint.url}: {found.reason}; it asks to wait for "
                    f"{found.wait / 3600:.6g} hours: resume with the same command then"
                )
            if found.wait is not None and found.wait > 60:
                log.warning("%s asks to wait for %.0f s", endpoint.url, found.wait)
            if found.kind == "busy":
                gate.close_for(back_off(1, found.wait, draw))
            await self._clock.sleep(back_off(failures, found.wait, draw))


def _estimate(text: str) -> int:
    return (len(text.encode("utf-8", "replace")) + 1) // 2


def _counted(reply: wire.Reply, expected: int, most: int) -> wire.Reply:
    """With our estimates where the server says nothing."""
    prompt, new = reply.prompt_tokens, reply.new_tokens
    return reply._replace(
        prompt_tokens=expected if prompt is None else prompt,
        new_tokens=min(_estimate(reply.text), most) if new is None else new,
    )


def _complaint(text: str, wrong: str) -> tuple[dict[str, str], ...]:
    said = ({"role": "assistant", "content": text},) if text.strip() else ()
    asked = (
        f"That does not follow the JSON schema ({wrong}). Answer with JSON that does, and with "
        "nothing else."
    )
    return (*said, {"role": "user", "content": asked})
