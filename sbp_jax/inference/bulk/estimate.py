"""What a bulk job will take, from a sample of its input, before anything is spent or written.

The worst case is exact on the sample: every prompt, and as many new tokens as are allowed. What
the journals in the output folder hold already says how long texts really are, and how fast.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

from sbp_jax.data.corpus import Corpus, Document
from sbp_jax.inference.bulk.budget import Budget
from sbp_jax.inference.bulk.job import Job
from sbp_jax.inference.bulk.output import SPEED, Output, read_json
from sbp_jax.inference.bulk.progress import expected_documents
from sbp_jax.inference.engine import Engine

SHARDS, DOCUMENTS, COUNTED = 16, 1_000, 20_000  # read to sample; counted further, of each shard


class _Sample(NamedTuple):
    documents: list[Document]
    bad_rows: int
    total: int  # documents of the corpus
    about: str  # how sure that is


def estimate(job: Job, output: Path, engine: Engine) -> str:
    """A report of a few lines."""
    sample = _sample(job.corpus)
    asks = [(prompt, sampling) for d in sample.documents for _, prompt, sampling in job.requests(d)]
    prompts = [engine.prompt_tokens(prompt) for prompt, _ in asks]
    new = [sampling.max_tokens for _, sampling in asks]
    scale = sample.total / max(1, len(sample.documents))
    requests, prompt_tokens, most = (round(scale * n) for n in (len(asks), sum(prompts), sum(new)))
    cost = scale * sum(engine.cost(p, n) for p, n in zip(prompts, new, strict=True))
    about = "" if len(sample.documents) == sample.total else "about "
    lines = [
        f"documents      {sample.about}{sample.total:,}, {len(sample.documents):,} of them sampled"
        + (f", {sample.bad_rows:,} bad rows" if sample.bad_rows else ""),
        f"requests       {about}{requests:,}",
        f"prompt tokens  {about}{prompt_tokens:,}",
        f"new tokens     at most {about}{most:,}",
        f"cost           at most {about}{cost:.4g}",
    ]
    known, past = Output(output, job.record(engine.fingerprint)), Budget()
    if not (answered := past.count(known.answers())):
        lines.append("time           unknown until a few texts are made; the same command goes on")
        return "\n".join(lines)
    new_tokens = sum(answer.new_tokens for answer in known.answers())
    lines += [
        f"so far         {answered:,} answers, {past.tokens:,} tokens, cost {past.cost:.4g}",
        f"expected       {requests * new_tokens / answered:,.0f} new tokens in all, "
        f"cost {requests * past.cost / answered:.4g}",
    ]
    if speed := read_json(known.journals / SPEED):
        seconds = requests / speed["requests_per_s"]
        lines.append(f"time           about {seconds:,.0f} s in all with one worker as before")
    return "\n".join(lines)


def _sample(corpus: Corpus) -> _Sample:
    shards, bad = corpus.shards, 0
    chosen = sorted({i * (len(shards) - 1) // max(1, SHARDS - 1) for i in range(SHARDS)})

    def on_bad_row(error: Exception) -> None:
        nonlocal bad
        bad += 1

    sample: list[Document] = []
    counted = characters = ended = 0
    for index in chosen:
        documents = iter(shards[index].read(on_bad_row))
        taken = list(itertools.islice(documents, -(-DOCUMENTS // len(chosen))))
        sample += taken
        number = len(taken)
        characters += sum(len(document.text) for document in taken)
        for document in itertools.islice(documents, COUNTED - number):
            number += 1
            characters += len(document.text)
        counted += number
        ended += number < COUNTED
    exact = ended == len(shards)
    total = counted if exact else expected_documents(corpus, counted, characters)
    if total is None:
        total = round(counted * len(shards) / len(chosen))
    about = "" if exact else "about " if ended == len(chosen) else "roughly "
    return _Sample(sample, bad, total, about)
