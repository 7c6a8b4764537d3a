"""Batches from token stores: which window stands in which step, and how it reaches the devices.

The order is arithmetic, not state: example n of a run is a pure function of (seed, stores, n). So
resuming at a step costs nothing, and neither hosts nor threads nor restarts can change what a step
sees. Grain reads ahead in threads; its processes are slower for rows that are already tokens.
"""

import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction

import grain
import jax
import numpy as np
from grain.experimental import index_shuffle

from sbp_jax import files
from sbp_jax.data.tokens import FIRST, TARGET, TokenStore
from sbp_jax.errors import UserError

Batch = dict[str, np.ndarray]  # inputs, targets, segments: int32, weights: float32; each [rows, T]


@dataclasses.dataclass(frozen=True)
class Windows:
    """A part of a store, cut into examples: windows of a plain tape, or rows of packed pairs."""

    store: TokenStore
    part: str  # train | held_out | all
    sequence_length: int
    document_mask: bool

    def __post_init__(self) -> None:
        if self.store.row_length not in (None, self.sequence_length + 1):
            raise UserError(
                f"{self.store.path}: its pairs are packed for data.sequence_length="
                f"{self.store.row_length - 1}, not {self.sequence_length}; set that or pack again"
            )
        if self.store.row_length and not self.document_mask:
            raise UserError(
                f"{self.store.path}: the pairs in one row must not see each other; set "
                "data.document_mask=True"
            )

    @property
    def _span(self) -> tuple[int, int]:
        border, end = self.store.num_training_tokens, self.store.num_tokens
        return {"train": (0, border), "held_out": (border, end), "all": (0, end)}[self.part]

    def __len__(self) -> int:
        start, stop = self._span
        if self.store.row_length:
            return (stop - start) // self.store.row_length
        predictions = max(0, stop - start - 1)
        if self.part == "train":
            return predictions // self.sequence_length
        return -(-predictions // self.sequence_length)  # counts every token; the last one is padded

    def read(self, indices: np.ndarray) -> Batch:
        start, stop = self._span
        length = self.sequence_length + 1
        starts = start + np.asarray(indices, np.int64) * (
            self.store.row_length or self.sequence_length
        )
        tokens = self.store.windows(starts, length)
        if self.store.row_length:
            marks = self.store.mark_windows(starts, length)
            segments = np.cumsum(marks[:, :-1] & FIRST != 0, axis=1) - 1
            counts = marks[:, 1:] & TARGET != 0
        else:
            counts = starts[:, None] + np.arange(1, length) < stop
            segments = np.zeros(counts.shape, np.int32)
            if self.document_mask:
                ends = tokens[:, :-1] == self.store.manifest["eos_id"]
                segments = np.cumsum(ends, axis=1) - ends
                counts &= ~ends  # what follows an eos belongs to another document
        return {
            "inputs": tokens[:, :-1].astype(np.int32),
            "targets": tokens[:, 1:].astype(np.int32),
            "segments": segments.astype(np.int32),
            "weights": counts.astype(np.float32),
        }


@dataclasses.dataclass(frozen=True)
class _Source:
    name: str
    windows: Windows
    weight: float
    used: int  # examples over the whole run


class Loader:
    """The training examples of a run: a mixture of stores in exact proportions.

    `sources` gives for each name its store, its weight and how many passes over it are allowed (0:
    any). The number of steps decides how a mixture interleaves; with one source a longer run only
    goes on.
    """

    def __init__(
        self,
        sources: Mapping[str, tuple[TokenStore, float, float]],
        *,
        seed: int,
        sequence_length: int,
        batch_size: int,
        num_steps: int,
        document_mask: bool,
    ):
        self.seed, self.sequence_length = seed, sequence_length
        self.batch_size, self.num_steps = batch_size, num_steps
        self.num_examples = num_steps * batch_size
        used = _shares(
            {name: weight for name, (_, weight, _) in sources.items()}, self.num_examples
        )
        self._sources = []
        for name, (store, weight, max_passes) in sources.items():
            windows = Windows(store, "train", sequence_length, document_mask)
            _refuse_shortage(name, windows, used[name], max_passes)
            self._sources.append(_Source(name, windows, weight, used[name]))
        self.fingerprint = files.sha256(json.dumps(self._identity(document_mask)).encode())

    def _identity(self, document_mask: bool) -> list:
        """All that decides the order of examples and what they hold."""
        stores = [
            (s.name, s.windows.store.manifest["sha256"], len(s.windows), s.weight)
            for s in self._sources
        ]
        steps = self.num_steps if len(stores) > 1 else None
        return [stores, self.seed, self.sequence_length, self.batch_size, steps, document_mask]

    def describe(self) -> list[dict[str, str | int | float]]:
        return [
            {
                "source": s.name,
                "windows": len(s.windows),
                "unique_tokens": len(s.windows) * self.sequence_length,
                "windows_used": s.used,
                "passes": s.used / len(s.windows),
            }
            for s in self._sources
        ]

    def consumed(self, examples: range) -> dict[str, dict[str, int]]:
        """What these examples are made of, read as training reads them: of each source the
        examples, the tokens that count in the loss, the windows that differ.
        """
        found = {s.name: {"examples": 0, "tokens": 0} for s in self._sources}
        windows: dict[str, set[int]] = {s.name: set() for s in self._sources}
        for first in range(0, len(examples), 1024):
            indices = examples[first : first + 1024]
            counts = self._read(np.array(indices))["weights"].sum(axis=1)
            for index, count in zip(indices, counts, strict=True):
                source, window = self._place(index)
                name = self._sources[source].name
                windows[name].add(window)
                found[name]["examples"] += 1
                found[name]["tokens"] += int(count)
        return {name: {**of, "windows": len(windows[name])} for name, of in found.items()}

    def example(self, index: int) -> Batch:
        """The `index`-th example of the run; its arrays are [T]."""
        return {name: rows[0] for name, rows in self._read(np.array([index])).items()}

    def rows(self, step: int, rows: np.ndarray) -> Batch:
        """These rows of a step's batch: what one process needs of it."""
        return self._read(step * self.batch_size + rows)

    @contextlib.contextmanager
    def batches(
        self, sharding: jax.sharding.Sharding, start_step: int = 0, *, threads: int = 2
    ) -> Iterator[Iterator[dict[str, jax.Array]]]:
        """The batches from `start_step` to the end as global arrays, read ahead of their use."""
        shape = (self.batch_size, self.sequence_length)
        steps = grain.MapDataset.source(_Steps(self, _local_rows(sharding, shape)))[start_step:]
        # One thread reads memory as fast as many; a tape on disk or far away wants several.
        options = grain.ReadOptions(
            num_threads=max(1, threads), prefetch_buffer_size=2 * max(1, threads)
        )
        iterator = iter(steps.to_iter_dataset(options))
        try:
            yield (_global(batch, sharding, shape) for batch in iterator)
        finally:
            iterator.close()  # its threads outlive it otherwise

    def _read(self, indices: np.ndarray) -> Batch:
        places = [self._place(int(index)) for index in indices]
        batch: Batch = {}
        for i in {source for source, _ in places}:
            mine = [k for k, (source, _) in enumerate(places) if source == i]
            part = self._sources[i].windows.read(np.array([places[k][1] for k in mine]))
            for name, rows in part.items():
                batch.setdefault(name, np.empty((len(places), self.sequence_length), rows.dtype))[
                    mine
                ] = rows
        return batch

    def _place(self, index: int) -> tuple[int, int]:
        """Source and window of an example: sources take turns evenly, permuted anew each pass."""
        left = self.num_examples  # of this and later sources; `index` counts those before the one
        for i, source in enumerate(self._sources):
            before = (index * source.used + left // 2) // left
            if ((index + 1) * source.used + left // 2) // left > before:
                windows = len(source.windows)
                turn, position = divmod(before, windows)
                key = _pass_key(self.seed, source.name, turn)
                return i, index_shuffle(position, max_index=windows - 1, seed=key, rounds=4)
            index, left = index - before, left - source.used
        raise IndexError(index)


def held_out_batches(
    store: TokenStore,
    *,
    part: str,
    sequence_length: int,
    batch_size: int,
    max_sequences: int,
    sharding: jax.sharding.Sharding,
    document_mask: bool,
) -> Iterator[dict[str, jax.Array]]:
    """The first `max_sequences` windows of the held-out part (or of "all") in order, once.

    What fills up the last batch has weight 0.
    """
    windows = Windows(store, part, sequence_length, document_mask)
    number = min(len(windows), max_sequences)
    if number < 1:
        raise UserError(
            f"{store.path}: its {part} part has no tokens to evaluate on; hold out more "
            "(data.held_out)"
        )
    shape = (batch_size, sequence_length)
    rows = _local_rows(sharding, shape)

    def batches() -> Iterator[dict[str, jax.Array]]:
        for first in range(0, number, batch_size):
            batch = windows.read(np.minimum(first + rows, number - 1))
            batch["weights"][first + rows >= number] = 0
            yield _global(batch, sharding, shape)

    return batches()


class _Steps:
    """A Grain source of one process's rows of each step."""

    def __init__(self, loader: Loader, rows: np.ndarray):
        self._loader, self._rows = loader, rows

    def __len__(self) -> int:
        return self._loader.num_steps

    def __getitem__(self, step: int) -> Batch:
        return self._loader.rows(step, self._rows)


def _local_rows(sharding: jax.sharding.Sharding, shape: tuple[int, int]) -> np.ndarray:
    """The rows of a batch of which this process's devices hold any part."""
    slices = [index for index in sharding.addressable_devices_indices_map(shape).values() if index]
    return np.unique(np.concatenate([np.arange(*index[0].indices(shape[0])) for index in slices]))


def _global(
    batch: Batch, sharding: jax.sharding.Sharding, shape: tuple[int, int]
) -> dict[str, jax.Array]:
    rows = _local_rows(sharding, shape)

    def array(local: np.ndarray) -> jax.Array:
        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(shape[0])
            first = int(np.searchsorted(rows, start))
            return local[first : first + stop - start, index[1]]

        return jax.make_array_from_callback(shape, sharding, shard)

    return {name: array(local) for name, local in batch.items()}


@functools.lru_cache(maxsize=1024)
def _pass_key(seed: int, source: str, turn: int) -> int:
    return int(files.sha256(f"{seed}/{source}/{turn}".encode())[:8], 16)


def _shares(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole examples for each source by largest remainder: they add up, and none is off by one."""
    wrong = [name for name, weight in weights.items() if not weight > 0 or math.isinf(weight)]
    if wrong or not weights:
        raise UserError(
            f"data.mixture: weights must be above 0: {', '.join(wrong) or 'there is no source'}"
        )
    whole = sum(map(Fraction, weights.values()))
    exact = {name: Fraction(weight) * total / whole for name, weight in weights.items()}
    shares = {name: math.floor(share) for name, share in exact.items()}
    remainders = sorted(exact, key=lambda name: shares[name] - exact[name])
    for name in remainders[: total - sum(shares.values())]:
        shares[name] += 1
    return shares


def _refuse_shortage(name: str, windows: Windows, used: int, max_passes: float) -> None:
    number, where = len(windows), f"data source {name!r} ({windows.store.path})"
    if number < 1:
        raise UserError(
            f"{where}: {windows.store.num_training_tokens} training tokens make no window of "
            f"{windows.sequence_length} + 1; add text or lower data.sequence_length"
        )
    if max_passes > 0 and used > max_passes * number:
        raise UserError(
            f"{where}: the run needs {used} windows, but max_passes={max_passes:g} over its "
            f"{number} allow {math.floor(max_passes * number)}; lower its weight or train.tokens, "
            "or add text"
        )
