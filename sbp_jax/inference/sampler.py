"""The JAX engine: cached decoding of the training model, many rows at a time.

A fixed number of rows shares one cache. A compiled loop draws a few tokens for all of them; then
the finished rows leave and the next requests take their places. Prompts' lengths come in classes,
so that a handful of programs serves every request.

A row draws with its own seed, and the other rows have no part in its arithmetic, neither in its
values nor in its shapes (model/cache.py): so its text is the same, bit for bit, whatever stands
beside it.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from sbp_jax import parallel
from sbp_jax.config import EngineConfig, MeshConfig, ModelConfig
from sbp_jax.data.tokenizer import Tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference import decode
from sbp_jax.inference.engine import Completion, Prompt, Request, complete, prompt_ids, stopped
from sbp_jax.model import transformer
from sbp_jax.model.cache import RUN, Cache
from sbp_jax.training import checkpoint as checkpoints

SHORTEST = 16  # class of prompts' lengths


class Text(NamedTuple):
    """What the host knows of a row."""

    request: Request
    prompt: list[int]
    stops: list[int]
    limit: int  # of the tokens
    tokens: list[int]
    logprobs: list[float]


class Sampler:
    """Rows are split over the mesh's replica and fsdp axes, heads over tensor. Weights are split
    over tensor alone and held in the compute dtype.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: transformer.Params,
        tokenizer: Tokenizer,
        *,
        max_length: int,  # of a prompt and its text
        batch_size: int = 64,
        mesh: Mesh | None = None,
        fingerprint: str = "",
    ):
        self.config, self.tokenizer, self.max_length = config, tokenizer, max_length
        self.mesh = mesh or _mesh()
        self.fingerprint = fingerprint
        self._on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        self._shards = self.mesh.shape["replica"] * self.mesh.shape["fsdp"]
        self.batch_size = _round_up(batch_size, self._shards)
        self._block_slots = _round_up(max(max_length // 16, 64), 64)
        self.set_params(params)

    @classmethod
    def from_checkpoint(cls, checkpoint: str, engine: EngineConfig | None = None) -> "Sampler":
        engine = engine or EngineConfig()
        config, params, tokenizer = checkpoints.load_model(checkpoint)
        context = checkpoints.run_config(checkpoint).data.sequence_length
        return cls(
            config,
            params,
            tokenizer,
            max_length=engine.max_length or context,
            batch_size=engine.batch_size,
            mesh=_mesh(engine.tensor),
            fingerprint=checkpoints.fingerprint(checkpoint),
        )

    def set_params(self, params: transformer.Params) -> None:
        """The trainer's, however they lie; what is generated from now on is theirs."""
        axes = transformer.param_metadata(self.config, "axes")
        parallel.check_divisible(self.mesh, transformer.param_shapes(self.config), axes)
        self.params = self.run(decode.prepare, self.config, params)

    def prompt_tokens(self, prompt: Prompt) -> int:
        return len(prompt_ids(self.tokenizer, prompt))

    def cost(self, prompt_tokens: int, new_tokens: int) -> float:
        return 0.0

    def close(self) -> None:
        pass

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        source, more = iter(requests), True
        waiting: list[Text] = []
        texts: dict[int, Text] = {}  # by row
        rows = decode.idle(self.batch_size)
        cache = self.run(decode.new_cache, self.config, self.batch_size)
        while True:
            free = [row for row in range(self.batch_size) if row not in texts]
            room = len(free) - len(waiting)
            taken = list(itertools.islice(source, room))
            more = more and len(taken) == room
            for request in taken:
                begun = self._begin(request)
                if isinstance(begun, Completion):
                    yield begun
                else:
                    waiting.append(begun)
            if not waiting and not texts:
                if more:
                    continue
                return
            first: list[Any] = []
            # Several at a time, for reading one takes as long; unless no more will come.
            if waiting and (not more or not texts or len(waiting) >= self.batch_size // 16):
                for length, group in self._groups(waiting):
                    places = [free.pop() for _ in group]
                    texts.update(zip(places, group, strict=True))
                    cache = self._with_blocks(cache, self._blocks(length))
                    rows, cache, token, logprob = self._read(rows, cache, length, places, group)
                    first.append((places, token, logprob))
                waiting = []
            longest = max(_round_up(len(t.prompt), RUN) + len(t.tokens) for t in texts.values())
            blocks = _few(self._blocks(longest + RUN))
            cache = self._with_blocks(cache, blocks)
            now, later = cache.blocks[:blocks], cache.blocks[blocks:]
            steps = min(RUN, max(t.limit - len(t.tokens) for t in texts.values()))
            rows, cache, *drawn = self.run(
                decode.decode, *self._how(texts.values()), rows, cache._replace(blocks=now), steps
            )
            cache = cache._replace(blocks=[*cache.blocks, *later])
            for places, token, logprob in jax.device_get(first):
                for row, one, its_logprob in zip(places, token, logprob, strict=False):
                    texts[row].tokens.append(int(one))
                    texts[row].logprobs.append(float(its_logprob))
            tokens, logprobs, counts, left = jax.device_get((*drawn, rows.drawn, rows.left))
            for row in list(texts):
                text = texts[row]
                seen = len(text.tokens) - 1  # a first token has just come from its prompt
                new = int(counts[row]) - len(text.tokens)
                text.tokens.extend(tokens[:new, row].tolist())
                text.logprobs.extend(logprobs[:new, row].tolist())
                # A row that has a stop text draws on, for nobody, until another takes its place.
                stop = text.request.sampling.stop
                if not left[row] or stopped(self.tokenizer, text.tokens, stop, seen):
                    yield self._finish(texts.pop(row), seen)

    def _begin(self, request: Request) -> Text | Completion:
        prompt, sampling = prompt_ids(self.tokenizer, request.prompt), request.sampling
        if sampling.schema:
            raise UserError("the jax engine cannot hold a text to a schema; use vllm or an api")
        stops = sorted({*self.tokenizer.stop_ids, *sampling.stop_ids})
        if len(stops) > decode.STOPS:
            raise UserError(f"{len(stops)} ids would end a text; {decode.STOPS} can")
        error = ""
        if not prompt:
            error = "the prompt is empty"
        elif len(prompt) >= self.max_length:
            error = f"the prompt has {len(prompt)} tokens, the context {self.max_length}"
        elif not 0 <= min(prompt) <= max(prompt) < self.config.vocab_size:
            error = f"the prompt has ids outside the model's 0..{self.config.vocab_size - 1}"
        elif sampling.max_tokens < 1:
            error = f"max_tokens is {sampling.max_tokens}"
        if error:
            return Completion(request.id, "", "error", len(prompt), error=error)
        limit = min(sampling.max_tokens, self.max_length - len(prompt))
        return Text(request, prompt, stops, limit, [], [])

    def _finish(self, text: Text, seen: int) -> Completion:
        request, prompt_tokens = text.request, len(text.prompt)
        tokens, logprobs, by_id = text.tokens, text.logprobs, text.tokens[-1] in text.stops
        done = complete(self.tokenizer, request, prompt_tokens, tokens, logprobs, by_id, seen)
        if math.isfinite(sum(logprobs[: done.new_tokens])):
            return done
        reason = "the model's logits are not finite"
        return Completion(request.id, "", "error", prompt_tokens, error=reason)

    def _groups(self, waiting: list[Text]) -> Iterator[tuple[int, list[Text]]]:
        """Those whose prompts are of one class of lengths, as many as are read at one time."""
        by_length: dict[int, list[Text]] = {}
        for text in waiting:
            by_length.setdefault(length_class(len(text.prompt), self.max_length), []).append(text)
        for length, group in by_length.items():
            size = self._together(length)
            for start in range(0, len(group), size):
                yield length, group[start : start + size]

    def _together(self, length: int) -> int:
        tokens = 256 if self._on_cpu else 4096
        return min(_round_up(max(tokens // length, 1), self._shards), self.batch_size)

    def _how(self, texts: Iterable[Text]) -> tuple[Any, ...]:
        """What every program gets: the static parts, and the parameters."""
        sampled = [text.request.sampling for text in texts]
        filtered = any(s.top_p < 1 or s.top_k > 0 for s in sampled)
        return self.config, self.tokenizer.vocab_size, filtered, self.params

    def _read(self, rows, cache, length: int, places: list[int], group: list[Text]):
        size = self._together(length)
        tokens, lengths = np.zeros((size, length), np.int32), np.ones(size, np.int32)
        new = decode.idle(size)
        for i, text in enumerate(group):
            sampling, seed = text.request.sampling, text.request.seed
            tokens[i, : len(text.prompt)] = text.prompt
            lengths[i] = len(text.prompt)
            new.left[i] = text.limit
            new.seed[i] = [seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF]
            new.temperature[i] = sampling.temperature
            new.top_k[i] = sampling.top_k or self.config.vocab_size
            new.top_p[i] = sampling.top_p
            new.stops[i, : len(text.stops)] = text.stops
        new, logprob, read = self.run(decode.prefill, *self._how(group), new, tokens, lengths)
        # The rows beyond the group have no place; blocks that no prompt reaches stay outside.
        padded = np.array(places + [self.batch_size] * (size - len(group)))
        blocks = self._blocks(length)
        now, later = cache.blocks[:blocks], cache.blocks[blocks:]
        rows, cache = self.run(
            decode.insert, rows, cache._replace(blocks=now), new, read, lengths, padded
        )
        return rows, cache._replace(blocks=[*cache.blocks, *later]), new.token, logprob

    def _blocks(self, slots: int) -> int:
        return -(-slots // self._block_slots)

    def _with_blocks(self, cache: Cache, blocks: int) -> Cache:
        new = [
            self.run(decode.new_block, self.config, self.batch_size, self._block_slots)
            for _ in range(blocks - len(cache.blocks))
        ]
        return cache._replace(blocks=[*cache.blocks, *new])

    def run(self, program, *arguments):
        """A compiled program, on the sampler's devices."""
        with jax.set_mesh(self.mesh):
            results = program(*arguments)
        if self.mesh.size > 1 and self._on_cpu:
            # Programs of several CPU devices share a few threads: two that are under way, each with
            # its collectives, can wait for each other for ever.
            jax.block_until_ready(results)
        return results


def _mesh(tensor: int = 1) -> Mesh:
    return parallel.make_mesh(
        MeshConfig(replica=-1, fsdp=1, tensor=tensor), devices=jax.local_devices()
    )


def length_class(length: int, longest: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, ... that is no shorter."""
    size = SHORTEST
    while size < length:
        size *= 2
    if size > SHORTEST and length <= size * 3 // 4:
        size = size * 3 // 4
    return min(size, longest)


def _few(blocks: int) -> int:
    """The next of few numbers, for each is a program of its own."""
    return next(n for n in itertools.count(blocks) if n < 5 or n in (6, 8, 12) or n > 15)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
