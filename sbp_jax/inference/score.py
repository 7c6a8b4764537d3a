"""Log-probabilities of texts that are given, in as few tokens as they have beginnings.

Sequences are sorted, and each goes on from what it shares with the one before: a row is a forest,
written down branch by branch, in which a token sees what it stands on. So four answers to a
question cost the question once, answers of one token cost nothing more, and a hundred questions
after the same five examples cost the examples once. Where nothing is shared, this is packing.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sbp_jax.config import ModelConfig
from sbp_jax.inference.decode import argmax
from sbp_jax.inference.sampler import Sampler
from sbp_jax.model import transformer
from sbp_jax.parallel import constrain

SHORTEST, SHARING = 256, 4096  # lengths of rows; only a sequence that is longer has a longer one
TRIED = 128  # sequences by which a length is chosen
GAPS = 32  # rows in which one is looked for


class Scored(NamedTuple):
    number: int  # of the sequence
    logprobs: np.ndarray  # of its tokens from `start` on, each after all before it
    greedy: np.ndarray  # whether it is the likeliest


class Row:
    """A forest of sequences; a sequence's last token is no input, for nothing follows it."""

    def __init__(self, length: int):
        self.tokens, self.positions, self.ends = np.zeros((3, length), np.int32)
        self.size = self.num_wanted = 0
        self.wanted: list[tuple[int, np.ndarray, np.ndarray]] = []  # number, places, tokens after
        self._path = np.zeros(0, np.int32)  # places of the tokens that the last sequence stands on
        self._last = np.zeros(0, np.int32)

    def add(self, number: int, tokens: np.ndarray, start: int) -> bool:
        """Whether there was room."""
        inputs = tokens[:-1]
        shared = _shared(self._last, inputs)
        new = len(inputs) - shared
        begin, end = self.size, self.size + new
        num_wanted = self.num_wanted + len(tokens) - start  # shared places are wanted often
        if max(end, num_wanted) > len(self.tokens):
            return False
        self.ends[self._path[shared:]] = begin
        self._path = np.concatenate([self._path[:shared], np.arange(begin, end, dtype=np.int32)])
        self._last = inputs
        self.tokens[begin:end] = inputs[shared:]
        self.positions[begin:end] = np.arange(shared, len(inputs))
        self.ends[self._path] = end
        self.size, self.num_wanted = end, num_wanted
        self.wanted.append((number, self._path[start - 1 :], tokens[start:]))
        return True


class Scorer:
    """With the weights, and on the devices, of a sampler."""

    def __init__(self, sampler: Sampler):
        self._sampler = sampler
        on_cpu = sampler.mesh.devices.flat[0].platform == "cpu"
        self._shards = sampler.mesh.shape["replica"] * sampler.mesh.shape["fsdp"]
        # Of a program's rows together. A CPU is as fast with 1,024 as with 2,048, of which the last
        # rows leave more empty.
        self._tokens = 1024 if on_cpu else 16384 * self._shards
        self._logits = 2**24 if on_cpu else 2**28  # numbers, of a part of them

    def score(self, sequences: Sequence[tuple[Sequence[int], int]]) -> Iterator[Scored]:
        """Of (tokens, start), 1 <= start < len(tokens), in an order of its own."""
        under_way: deque[tuple[list[Row], Any]] = deque()
        for length, rows in _packed(sequences, self._cost):
            for first in range(0, len(rows), batch := self._batch(length)):
                some = rows[first : first + batch]
                under_way.append((some, self._start(some, length, batch)))
                if len(under_way) > 2:
                    yield from _read(*under_way.popleft())
        while under_way:
            yield from _read(*under_way.popleft())

    def _cost(self, length: int) -> int:
        """Of a token in rows of this length: the multiplications of a layer."""
        c = self._sampler.config
        matrices = 2 * (c.num_heads + c.num_kv_heads) * c.head_dim + 3 * c.d_ff
        return c.d_model * matrices + 2 * c.num_heads * c.head_dim * length

    def _batch(self, length: int) -> int:
        return -(-max(self._tokens // length, 1) // self._shards) * self._shards

    def _start(self, rows: list[Row], length: int, batch: int) -> Any:
        tokens, positions, ends = np.zeros((3, batch, length), np.int32)
        # Of few sizes, for each is a program: answers to questions, or whole texts.
        few = all(row.num_wanted <= length // 4 for row in rows)
        width = length // 4 if few else length
        places, targets = np.zeros((2, batch, width), np.int32)
        for i, row in enumerate(rows):
            tokens[i], positions[i], ends[i] = row.tokens, row.positions, row.ends
            count = row.num_wanted
            places[i, :count] = np.concatenate([places for _, places, _ in row.wanted])
            targets[i, :count] = np.concatenate([targets for _, _, targets in row.wanted])
        config, params = self._sampler.config, self._sampler.params
        room = max(self._logits // (batch * config.vocab_size), 1)
        chunk = min(_power(room + 1) // 2, width)  # a power of two, as the width is
        return self._sampler.run(
            _score, config, chunk, params, tokens, positions, ends, places, targets
        )


@functools.partial(jax.jit, static_argnames=("config", "chunk"))
def _score(config: ModelConfig, chunk: int, params, tokens, positions, ends, places, targets):
    """[B, P] log-probabilities of targets after places, and whether each is the likeliest."""
    model = transformer.bind(config, params)
    hidden, _ = model(constrain(tokens, "batch", None), positions=positions, ends=ends)
    hidden = jnp.take_along_axis(hidden, places[..., None], axis=1)

    def part(at):
        logits = model.logits(jax.lax.dynamic_slice_in_dim(hidden, at, chunk, axis=1))
        after = jax.lax.dynamic_slice_in_dim(targets, at, chunk, axis=1)
        target = jnp.take_along_axis(logits, after[..., None], axis=-1)[..., 0]
        logprob = target - jax.nn.logsumexp(logits, axis=-1)
        return logprob, after == argmax(logits)

    parts = jax.lax.map(part, jnp.arange(0, places.shape[1], chunk))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(places.shape), parts)


def _read(rows: list[Row], results: Any) -> Iterator[Scored]:
    logprobs, greedy = jax.device_get(results)
    for i, row in enumerate(rows):
        at = 0
        for number, places, _ in row.wanted:
            found = slice(at, at + len(places))
            yield Scored(number, logprobs[i, found], greedy[i, found])
            at += len(places)


def _packed(
    sequences: Sequence[tuple[Sequence[int], int]], cost: Callable[[int], int]
) -> Iterator[tuple[int, list[Row]]]:
    """Rows of each length, the longest first."""
    by_length: dict[int, list[tuple[bytes, int]]] = {}
    for number, (tokens, _) in enumerate(sequences):
        key = np.asarray(tokens, ">u4").tobytes()  # bytes sort as the tokens do
        by_length.setdefault(_power(len(tokens) - 1, SHORTEST), []).append((key, number))
    for least in sorted(by_length, reverse=True):
        ordered = [
            (number, np.frombuffer(key, ">u4").astype(np.int32), sequences[number][1])
            for key, number in sorted(by_length[least])
        ]
        lengths = [least]  # longer rows share more beginnings, but cost more for each token
        while 2 * lengths[-1] <= SHARING:
            lengths.append(2 * lengths[-1])
        length = min(lengths, key=lambda n: _filled(_rows(ordered[:TRIED], n)) * cost(n))
        yield length, _rows(ordered, length)


def _rows(ordered: Sequence[tuple[int, np.ndarray, int]], length: int) -> list[Row]:
    """Each sequence goes where the one before it went, else into a gap, else into a new row."""
    rows: list[Row] = []
    last: list[Row] = []
    for one in ordered:
        inputs = len(one[1]) - 1
        gaps = [row for row in rows[-GAPS:] if row.size + inputs <= length]
        for row in [*last, *gaps]:
            if row.add(*one):
                break
        else:
            row = Row(length)
            row.add(*one)
            rows.append(row)
        last = [row]
    return rows


def _filled(rows: list[Row]) -> int:
    """The places that rows take, without those that what follows them might fill."""
    return (len(rows) - 1) * len(rows[0].tokens) + rows[-1].size


def _power(number: int, least: int = 1) -> int:
    """The next power of two."""
    return max(1 << (number - 1).bit_length(), least)


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two sequences begin alike with."""
    size = min(len(a), len(b))
    differ = np.flatnonzero(a[:size] != b[:size])
    return int(differ[0]) if len(differ) else size
