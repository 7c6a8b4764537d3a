"""A second, closer look at the passages that a search found for a question.

none         the order of the search
likelihood   how likely the model of --checkpoint finds the question after each passage
judge        the engine's mark for each passage, from 0 to 10; equal marks in the search's order
FOLDER       a cross-encoder: a Hugging Face folder of a sequence classifier with one output
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from entigraph.evaluation.asking import Asker, Prompts
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import Sampling
from sbp_jax.inference.sampler import Sampler
from sbp_jax.inference.score import Scorer

BATCH = 32  # pairs in a cross-encoder at one time
MARK = Sampling(max_tokens=8, temperature=0.0)


def by_cross_encoder(folder: str, queries: Sequence[str], found: Sequence[Sequence[str]]):
    """Scores [queries, passages] of the passages found for each."""
    if not (Path(folder) / "config.json").exists():
        raise UserError(
            f"--reranker={folder}: no such folder of a cross-encoder; it may be none, likelihood, "
            "judge or a Hugging Face folder"
        )
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    except ImportError as error:
        raise UserError('a cross-encoder needs torch and transformers: "sbp-jax[hf]"') from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no cross-encoder: {' '.join(str(error).split())}") from error
    if model.config.num_labels != 1:
        raise UserError(
            f"{folder}: {model.config.num_labels} outputs; a cross-encoder that ranks has one"
        )
    pairs = [(query, text) for query, texts in zip(queries, found, strict=True) for text in texts]
    scores = np.zeros(len(pairs), np.float32)
    # Of like lengths together, for all of a batch are padded to the longest.
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        batch = tokenizer(
            [pairs[i][0] for i in some],
            [pairs[i][1] for i in some],
            padding=True,
            truncation=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            scores[some] = model(**batch).logits[:, 0].float().numpy()
    return scores.reshape(len(queries), -1)


def by_likelihood(
    sampler: Sampler, queries: Sequence[str], found: Sequence[Sequence[str]]
) -> np.ndarray:
    """Log-probability of the question after each passage; a passage that is too long for the
    context loses its beginning.
    """
    tokenizer = sampler.tokenizer
    begin = [tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id]
    sequences = []
    for query, texts in zip(queries, found, strict=True):
        asked = tokenizer.encode([f"\n\n{query}"])[0]
        for passage in tokenizer.encode(list(texts)):
            room = max(sampler.max_length - len(asked), 0)
            before = [*begin, *passage[len(passage) - min(room, len(passage)) :]]
            sequences.append(([*before, *asked][: sampler.max_length + 1], len(before)))
    scores = np.zeros(len(sequences))
    for number, logprobs, _ in Scorer(sampler).score(sequences):
        scores[number] = logprobs.sum(dtype=np.float64)
    return scores.reshape(len(queries), -1)


def by_judge(
    name: str,
    ask: Asker,
    prompts: Prompts,
    ids: Sequence[str],
    queries: Sequence[str],
    found: Sequence[Sequence[str]],
) -> np.ndarray:
    """Marks from 0 to 10; no mark is a 0."""
    asked = [
        (f"{id}/{place}", prompts.fill("passage", passage=text, question=query))
        for id, query, texts in zip(ids, queries, found, strict=True)
        for place, text in enumerate(texts)
    ]
    texts = ask(name, asked, MARK)
    return np.array([_mark(texts[id][0]) for id, _ in asked]).reshape(len(queries), -1)


def _mark(text: str) -> float:
    number = re.search(r"\b(\d+)\b", text)
    return min(float(number[1]), 10.0) if number else 0.0
