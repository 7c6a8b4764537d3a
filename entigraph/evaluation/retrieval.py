"""Passages of a library, and which of them are nearest to a question.

Passages are cut at a fixed number of characters, without overlap, and each is headed by the title,
author and year of its text, in what is embedded as in what a model reads. Embedders are those of
`sbp_jax.pairing`. The search is exact: JAX or faiss finds candidates, and the order among them
comes from scores that are computed once more in float64, so that it is the same by either.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from entigraph.library import Text
from sbp_jax.config import Experiment, PairingConfig
from sbp_jax.errors import UserError
from sbp_jax.pairing import exact, lexical

QUERIES = 1_000  # searched at one time
SPARE = 32  # candidates more than are wanted, for scores that rounding has in another order
# What Qwen3-Embedding was trained to read before a query, and not before a document.
INSTRUCTION = "Given a question about a text, retrieve passages that answer the question"


@dataclass(frozen=True)
class Passage:
    article: str  # id of its text
    text: str  # with its heading


def passages(library: Sequence[Text], characters: int) -> list[Passage]:
    return [
        Passage(text.id, f"{text.heading}\n{piece}")
        for text in library
        for start in range(0, len(text.text), characters)
        if (piece := text.text[start : start + characters].strip())
    ]


class Embedder(Protocol):
    def passages(self, texts: list[str]) -> np.ndarray:
        """Unit vectors; what it has to know of all passages, it learns here."""
        ...

    def queries(self, texts: list[str]) -> np.ndarray: ...


class _Lexical:
    def __init__(self, pairing: PairingConfig):
        self._dimensions = pairing.dimensions

    def passages(self, texts: list[str]) -> np.ndarray:
        self._weights = lexical.weights(lexical.count(texts), len(texts))
        return self.queries(texts)

    def queries(self, texts: list[str]) -> np.ndarray:
        return lexical.embed(texts, self._weights, self._dimensions)


class _Own:
    """Mean hidden states of a base model, which lie in a narrow cone around their own mean."""

    def __init__(self, embed: Callable[[list[str]], np.ndarray]):
        self._embed = embed

    def passages(self, texts: list[str]) -> np.ndarray:
        vectors = self._embed(texts)
        self._mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        return _unit(vectors - self._mean)

    def queries(self, texts: list[str]) -> np.ndarray:
        return _unit(self._embed(texts) - self._mean)


class _Qwen3:
    def __init__(self, embed: Callable[[list[str]], np.ndarray]):
        self.passages = embed
        self._embed = embed

    def queries(self, texts: list[str]) -> np.ndarray:
        return self._embed([f"Instruct: {INSTRUCTION}\nQuery:{text}" for text in texts])


def open_embedder(experiment: Experiment, checkpoint: str | None) -> Embedder:
    """What config.pairing names."""
    pairing = experiment.pairing
    if pairing.embedder == "lexical":
        return _Lexical(pairing)
    if pairing.embedder == "self" and not (pairing.model or checkpoint):
        raise UserError("--checkpoint is missing: config.pairing.embedder=self takes its model")
    embed: Callable[[list[str]], np.ndarray]
    if pairing.engine == "vllm" and pairing.embedder == "qwen3":
        from sbp_jax.pairing.vllm import VllmEmbedder

        embed = VllmEmbedder(pairing, experiment.engine)
    else:
        from sbp_jax.pairing.hidden import HiddenStates

        embed = HiddenStates(pairing, checkpoint)
    return _Own(embed) if pairing.embedder == "self" else _Qwen3(embed)


def search(queries: np.ndarray, vectors: np.ndarray, k: int, index: str = "jax") -> np.ndarray:
    """Numbers [queries, k] of the nearest vectors, best first; k is at most as many as there are.

    Equal scores are in the order of the vectors.
    """
    k = min(k, len(vectors))
    candidates = {"jax": _jax_candidates, "faiss": _faiss_candidates}[index]
    both = np.concatenate([queries, vectors])
    found = []
    for start in range(0, len(queries), QUERIES):
        some = queries[start : start + QUERIES]
        near = candidates(some, vectors, min(k + SPARE, len(vectors)))
        row = np.repeat(np.arange(start, start + len(some)), near.shape[1])
        _, ids, _ = exact.best(both, row, near.ravel() + len(queries), k)
        found.append(ids.reshape(len(some), k) - len(queries))
    return np.concatenate(found) if found else np.zeros((0, k), np.int64)


def _jax_candidates(queries: np.ndarray, vectors: np.ndarray, count: int) -> np.ndarray:
    import jax

    _, ids = jax.lax.top_k(jax.numpy.asarray(queries) @ jax.numpy.asarray(vectors).T, count)
    return np.asarray(ids, np.int64)


def _faiss_candidates(queries: np.ndarray, vectors: np.ndarray, count: int) -> np.ndarray:
    try:
        import faiss
    except ImportError as error:
        raise UserError("--index=faiss needs faiss-cpu: install it, or --index=jax") from error
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, np.float32))
    return index.search(np.ascontiguousarray(queries, np.float32), count)[1]


def recall(ranked: Sequence[Sequence[str]], articles: Sequence[str], k: int) -> float:
    """Share of the questions that have a passage of their own article, wherever it is from in it,
    among the first k: `ranked` are the articles of each question's passages.
    """
    return float(np.mean([own in of[:k] for of, own in zip(ranked, articles, strict=True)]))


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)
