"""The loss of a model on documents that it was not trained on: any corpus, any length.

A document is begin-of-text, text, end-of-text, as in training, and is read by itself. A longer one
is read in windows: each new stretch of `stride` tokens after as many tokens before it as the
context holds. A stride of the whole context costs half as much and knows less.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from tqdm import tqdm

from sbp_jax import files
from sbp_jax.data.corpus import Document
from sbp_jax.errors import UserError
from sbp_jax.evaluation.scores import Score, TaskScores
from sbp_jax.inference.sampler import Sampler
from sbp_jax.inference.score import Scorer

TOGETHER = 1_000  # documents


def perplexity(sampler: Sampler, documents: Iterable[Document], *, stride: int = 0) -> TaskScores:
    """Metrics `loss` (nats a token), `perplexity`, `bits_per_byte`; a stride of 0 is half the
    context.
    """
    context = sampler.max_length
    stride = stride or max(context // 2, 1)
    if not 1 <= stride <= context:
        raise UserError(f"--stride={stride} has to lie between 1 and the context, {context}")
    scorer, source = Scorer(sampler), iter(documents)
    losses: list[float] = []
    counts: list[int] = []
    texts: list[str] = []
    with tqdm(desc="documents", unit="") as progress:
        while some := [document.text for document in islice(source, TOGETHER)]:
            tokens = [_tokens(sampler, text) for text in some]
            windows, owners = [], []
            for owner, whole in enumerate(tokens, start=len(losses)):
                for window in sliding(whole, context, stride):
                    windows.append(window)
                    owners.append(owner)
            losses += [0.0] * len(some)
            counts += [len(whole) - 1 for whole in tokens]
            texts += some
            for number, logprobs, _ in scorer.score(windows):
                losses[owners[number]] -= float(logprobs.sum(dtype="float64"))
            progress.update(len(some))
    if not texts:
        raise UserError("no documents to measure the perplexity of")
    loss, weight = np.array(losses), np.array(counts, float)
    size = np.array([len(text.encode()) for text in texts], float)
    return TaskScores(
        [files.sha256(text.encode()) for text in texts],
        texts,
        {
            "loss": Score(loss, weight, False, False),
            "perplexity": Score(loss, weight, True, False),
            "bits_per_byte": Score(loss / np.log(2), size, False, False),
        },
    )


def _tokens(sampler: Sampler, text: str) -> list[int]:
    tokenizer = sampler.tokenizer
    # Without a begin-of-text, what a document follows in training is the end of another one.
    first = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    return [first, *tokenizer.encode([text])[0], tokenizer.eos_id]


def sliding(tokens: list[int], context: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """Windows of up to `context` inputs, and where their new tokens begin; each token but the first
    is new once.
    """
    done = 1
    while done < len(tokens):
        end = min(done + (context if done == 1 else stride), len(tokens))
        begin = max(end - context - 1, 0)
        yield tokens[begin:end], done - begin
        done = end
