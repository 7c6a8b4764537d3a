"""Vectors of documents from a model of ours: its own hidden states, or a Qwen3-Embedding model's.

A base model's document is the mean over its tokens: no single place was trained to hold all of it.
Qwen3-Embedding was trained to say it at the end-of-text token, which is kept when the text is cut.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sbp_jax import parallel
from sbp_jax.config import MeshConfig, ModelConfig, PairingConfig
from sbp_jax.data.tokenizer import Tokenizer
from sbp_jax.errors import UserError
from sbp_jax.model import transformer
from sbp_jax.parallel import constrain
from sbp_jax.training import checkpoint as checkpoints

SHORTEST = 32  # class of lengths
PROGRAM_TOKENS = {"cpu": 2048}  # of a program on a device; more hides what starting one takes
MANY_TOKENS = 32768


class HiddenStates:
    """Texts in, vectors out; of unit length for qwen3."""

    def __init__(self, pairing: PairingConfig, checkpoint: str | None):
        path = pairing.model or checkpoint or ""
        self._config, self._params, self._tokenizer = checkpoints.load_model(path)
        self._mesh = parallel.make_mesh(MeshConfig())
        self._last = pairing.embedder == "qwen3"
        self._end = end_of_text(path, self._tokenizer) if self._last else None
        context = checkpoints.run_config(path).data.sequence_length
        self._most = min(pairing.max_tokens, context)

    def __call__(self, texts: list[str]) -> np.ndarray:
        sequences = tokens(self._tokenizer, texts, self._most, self._end)
        vectors = np.zeros((len(texts), self._config.d_model), np.float32)
        shards = self._mesh.shape["fsdp"]
        room = PROGRAM_TOKENS.get(self._mesh.devices.flat[0].platform, MANY_TOKENS) * shards
        by_length: dict[int, list[int]] = {}
        for number, sequence in enumerate(sequences):
            length = SHORTEST
            while length < len(sequence):
                length *= 2
            by_length.setdefault(length, []).append(number)
        for length, numbers in sorted(by_length.items()):
            batch = -(-max(room // length, 1) // shards) * shards
            for start in range(0, len(numbers), batch):
                some = numbers[start : start + batch]
                ids, lengths = np.zeros((batch, length), np.int32), np.zeros(batch, np.int32)
                for row, number in enumerate(some):
                    ids[row, : len(sequences[number])] = sequences[number]
                    lengths[row] = len(sequences[number])
                vectors[some] = self._run(ids, lengths)[: len(some)]
        return vectors

    def _run(self, ids, lengths) -> np.ndarray:
        skipped = 0 if self._last or self._tokenizer.bos_id is None else 1
        with jax.set_mesh(self._mesh):
            pooled = _pool(self._config, self._last, skipped, self._params, ids, lengths)
            return np.asarray(jax.block_until_ready(pooled))


@functools.partial(jax.jit, static_argnames=("config", "last", "skipped"))
def _pool(config: ModelConfig, last: bool, skipped: int, params, ids, lengths):
    """What follows a text's end in its row is seen by nothing before it, so it needs no mask."""
    model = transformer.bind(config, params)
    hidden, _ = model(constrain(ids, "batch", None))
    hidden = hidden.astype(jnp.float32)
    if last:
        pooled = jnp.take_along_axis(hidden, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[
            :, 0
        ]
        return pooled / jnp.maximum(jnp.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    place = jnp.arange(ids.shape[1])
    inside = (place >= skipped) & (place < lengths[:, None])
    total = jnp.where(inside[..., None], hidden, 0).sum(axis=1)
    return total / jnp.maximum(inside.sum(axis=1), 1)[:, None]


def tokens(tokenizer: Tokenizer, texts: list[str], most: int, end: int | None) -> list[list[int]]:
    """The ids that a model sees of each text; with `end` last, whatever is cut."""
    begin = [] if end is not None or tokenizer.bos_id is None else [tokenizer.bos_id]
    finish = [] if end is None else [end]
    room = most - len(begin) - len(finish)
    return [[*begin, *ids[:room], *finish] for ids in tokenizer.encode(texts)]


def end_of_text(folder: str, tokenizer: Tokenizer) -> int:
    """What a Qwen3-Embedding's tokenizer puts after a text, which is not its chats' end."""
    import tokenizers

    path = Path(folder) / "tokenizer.json"
    if not path.exists():
        raise UserError(
            f"{folder}: no tokenizer.json; config.pairing.model is a Hugging Face folder"
        )
    added = tokenizers.Tokenizer.from_str(path.read_text()).encode("").ids
    return added[-1] if added else tokenizer.eos_id
