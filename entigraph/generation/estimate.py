"""What the stages of a synthesis will take, before anything is spent.

Prompts are counted by a few of each document's, whose others differ in names alone. Before a model
has listed the entities, their number is guessed by those that extractive.py finds.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path

from entigraph.generation.entities import merged
from entigraph.generation.extractive import found_entities
from entigraph.generation.synthesis import Synthesis
from sbp_jax import files
from sbp_jax.inference import bulk
from sbp_jax.inference.bulk.output import SPEED, Output, read_json
from sbp_jax.inference.engine import Engine

DOCUMENTS, PROMPTS = 64, 3  # that are counted: of the library, and of each document


def estimate(synthesis: Synthesis, engine: Engine) -> str:
    """A report of a few lines for each stage."""
    lines = [f"method {synthesis.method_name}, {len(synthesis.texts):,} documents"]
    entities: Mapping[str, list[str]] = {}
    if synthesis.method.by_entities:
        job = synthesis.entities_job()
        lines += _stage("entities", job, synthesis.work / "entities", engine)
        known = synthesis.work / "entities.json"
        if known.exists():
            entities = files.read_record(known, "entities")["entities"]
        else:
            most = synthesis.experiment.entigraph.max_entities
            entities = {
                text.id: merged(map(found_entities, synthesis.windows[text.id]))[:most]
                for text in synthesis.texts
            }
            total = sum(map(len, entities.values()))
            lines.append(f"  guess         {total:,} entities, as found without a model")
    job = synthesis.texts_job(entities, synthesis.least(entities))
    lines += _stage("texts", job, synthesis.work / "texts", engine)
    if budget := synthesis.experiment.entigraph.tokens_per_document:
        lines.append(
            f"  the least, if every text were as long as it may be: requests go on until each "
            f"document has {budget:,} new tokens"
        )
    return "\n".join(lines)


def _stage(name: str, job: bulk.Job, folder: Path, engine: Engine) -> list[str]:
    documents = [shard.document for shard in job.corpus.shards]  # type: ignore[attr-defined]
    counts = [job.requests.count(document) for document in documents]  # type: ignore[attr-defined]
    step = -(-len(documents) // DOCUMENTS)
    sampled = weighed = new = 0
    cost = 0.0
    for document, count in zip(documents[::step], counts[::step], strict=True):
        asks = list(itertools.islice(job.requests(document), PROMPTS))
        for _, prompt, sampling in asks:
            size, share = engine.prompt_tokens(prompt), count / len(asks)
            weighed += round(share * size)
            new += round(share * sampling.max_tokens)
            cost += share * engine.cost(size, sampling.max_tokens)
        sampled += count
    requests = sum(counts)
    scale = requests / sampled if sampled else 0.0
    past = bulk.Budget()
    answers = list(Output(folder, {}).answers())
    answered = past.count(answers)
    lines = [
        f"{name}",
        f"  requests      {requests:,}",
        f"  prompt tokens about {scale * weighed:,.0f}",
        f"  new tokens    at most {scale * new:,.0f}",
        f"  cost          at most {scale * cost:.4g}",
    ]
    if not answered:
        return [
            *lines,
            "  time          unknown until a few texts are made; the same command goes on",
        ]
    written = sum(answer.new_tokens for answer in answers)
    lines += [
        f"  so far        {answered:,} answers, {past.tokens:,} tokens, cost {past.cost:.4g}",
        f"  expected      {requests * written / answered:,.0f} new tokens in all, "
        f"cost {requests * past.cost / answered:.4g}",
    ]
    if speed := read_json(folder / "journal" / SPEED):
        seconds = requests / speed["requests_per_s"]
        lines.append(f"  time          about {seconds:,.0f} s in all, as fast as before")
    return lines
