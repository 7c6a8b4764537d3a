"""The stages of a synthesis: entities, texts, corpus. The first two are bulk jobs.

    W/work/METHOD/entities       answers, a window each
    W/work/METHOD/entities.json  what they come to: the entities of each document
    W/work/METHOD/texts          answers, in the order of methods.py
    W/METHOD                     the corpus: those that stay, and where each comes from

Where config.entigraph.tokens_per_document sets a budget, texts are asked for in rounds until each
document has that much, as far as it goes; what a budget keeps is a beginning of the order, so it
does not depend on the rounds.
"""

import dataclasses
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entigraph.generation import entities as naming
from entigraph.generation.generator import Generator
from entigraph.generation.synthesis import Synthesis
from entigraph.library import Text
from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Document, open_corpus, read_documents, write_corpus
from sbp_jax.errors import UserError
from sbp_jax.inference import bulk
from sbp_jax.inference.bulk.output import Output

STALLED = 3  # rounds without a token, after which a document is left at what it has
VERSION = 1  # of the corpus
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Of all stages of a method together, over all runs."""

    max_tokens: int | None = None
    max_cost: float | None = None
    retry_errors: bool = False


def generate(
    experiment: Experiment,
    texts: Sequence[Text],
    folder: Path,
    method: str,
    writer: Generator,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Makes the corpus folder/METHOD and returns its manifest."""
    limits = limits or Limits()
    synthesis = Synthesis(experiment, texts, method, writer, folder)
    entities = find_entities(synthesis, limits) if synthesis.method.by_entities else {}
    manifest = write_result(synthesis, write_texts(synthesis, entities, limits))
    counts = ", ".join(f"{name} {count:,}" for name, count in manifest["counts"].items())
    log.info("%s: %s tokens (%s)", synthesis.corpus, f"{manifest['tokens']:,}", counts)
    return manifest


def find_entities(synthesis: Synthesis, limits: Limits) -> dict[str, list[str]]:
    """The entities of each document; writes them and how many answers were of no use."""
    folder = synthesis.work / "entities"
    answered = _run(synthesis, synthesis.entities_job(), folder, limits)
    lists: dict[str, list[list[str]]] = {text.id: [] for text in synthesis.texts}
    malformed: list[str] = []
    for answer in _answers(folder, synthesis.experiment):
        meta = json.loads(answer.meta)
        try:
            names = naming.listed(answer.text, meta["finish_reason"] == "stop")
            lists[meta["document"]].append(names)
        except ValueError as error:
            malformed.append(f"{meta['document']}: {error}")
    asked = sum(map(len, synthesis.windows.values()))
    bad = asked - sum(map(len, lists.values()))
    first = malformed[:1] or [e["error"] for e in answered["error_examples"][:1]]
    if bad:
        log.warning(
            "entities: %d of %d answers are of no use, the first: %s",
            bad,
            asked,
            *first or ["empty"],
        )
    most = synthesis.experiment.entigraph.max_entities
    found = {id: naming.merged(some)[:most] for id, some in lists.items()}
    if max(map(len, found.values())) < 2:
        raise UserError(
            f"{folder}: no document has two entities ({bad} of {asked} answers are of no use"
            f"{''.join(f', the first: {reason}' for reason in first)}); ask a more capable model, "
            "or raise config.entigraph.entity_tokens"
        )
    record = {"answers": asked, "of_no_use": bad, "entities": found}
    files.write_json(synthesis.work / "entities.json", record)
    return found


def write_texts(
    synthesis: Synthesis, entities: Mapping[str, list[str]], limits: Limits
) -> dict[str, Any]:
    """Answers until each document has its budget, or all that there is; the job's manifest."""
    folder, budget = synthesis.work / "texts", synthesis.experiment.entigraph.tokens_per_document
    counts, most = synthesis.least(entities), synthesis.most(entities)
    stalled: Counter[str] = Counter()  # rounds that brought a document nothing
    before: Counter[str] = Counter()
    while True:
        job = synthesis.texts_job(entities, counts)
        manifest = _run(synthesis, job, folder, limits)
        if not budget:
            return manifest
        limits = dataclasses.replace(limits, retry_errors=False)  # once is enough
        tokens = _tokens(synthesis)
        stalled.update(id for id in counts if tokens[id] == before[id])
        more = dict(counts)
        for id, count in counts.items():
            if tokens[id] < budget and stalled[id] < STALLED:
                needed = 1.05 * count * (budget / max(1, tokens[id]) - 1) if tokens[id] else count
                more[id] = min(most[id], count + max(1, math.ceil(needed)))
        if more == counts:
            return manifest
        counts, before = more, tokens
        log.info("texts: %s requests, for %s tokens a document", sum(counts.values()), budget)


def _tokens(synthesis: Synthesis) -> Counter[str]:
    """That each document has so far."""
    tokens: Counter[str] = Counter()
    for answer in _answers(synthesis.work / "texts", synthesis.experiment):
        meta = json.loads(answer.meta)
        if synthesis.keeps(meta):
            tokens[meta["document"]] += meta["tokens"]
    return tokens


def write_result(synthesis: Synthesis, answered: Mapping[str, Any]) -> dict[str, Any]:
    """The corpus, unless it is there; its manifest counts what was left out."""
    c = synthesis.experiment.entigraph
    identity = {
        "version": VERSION,
        "answers": answered["sha256"],
        "keep_unfinished": c.keep_unfinished,
        "tokens_per_document": c.tokens_per_document,
        "generator": synthesis.generator.name,
        "prompts": {name: synthesis.wording.hash(name) for name, _ in synthesis.wording.prompts},
    }
    with files.locked(synthesis.work / "corpus.lock"):
        if files.has_manifest(synthesis.corpus):
            manifest = files.read_manifest(synthesis.corpus)
            if manifest.get("entigraph") == identity:
                log.info("%s: finished already", synthesis.corpus)
                return manifest
            if "entigraph" not in manifest:
                raise UserError(f"{synthesis.corpus}: holds something else; name another --output")
        counts: Counter[str] = Counter(errors=answered["errors"])
        extras: dict[str, Any] = {}  # known when the last text has been written
        kept = _kept(synthesis, counts)
        first = next(kept, None)
        if first is None:
            raise UserError(
                f"{synthesis.work}: no text stays ({dict(counts)}); raise config.entigraph."
                "max_tokens, or set config.entigraph.keep_unfinished"
            )

        def documents() -> Iterator[Document]:
            yield first
            yield from kept
            extras.update(entigraph=identity, method=synthesis.method_name)
            extras.update(tokens=counts.pop("tokens"), counts=dict(sorted(counts.items())))

        return write_corpus(documents(), synthesis.corpus, extras=extras)


def _kept(synthesis: Synthesis, counts: Counter[str]) -> Iterator[Document]:
    budget = synthesis.experiment.entigraph.tokens_per_document or math.inf
    tokens: Counter[str] = Counter()
    for answer in _answers(synthesis.work / "texts", synthesis.experiment):
        meta = json.loads(answer.meta)
        about, id = meta["arguments"], meta["document"]
        counts["unfinished"] += meta["finish_reason"] != "stop"
        if not synthesis.keeps(meta):
            counts["unfinished_left_out"] += 1
        elif tokens[id] >= budget:
            counts["beyond_the_budget"] += 1
        else:
            tokens[id] += meta["tokens"]
            counts["tokens"] += meta["tokens"]
            counts["kept"] += 1
            origin = {
                "document": id,
                "method": synthesis.method_name,
                "entities": about["entities"],
                "model": synthesis.generator.name,
                "prompt": synthesis.wording.hash(about["prompt"]),
                "number": about["number"],
                "tokens": meta["tokens"],
            }
            provenance = json.dumps(origin, ensure_ascii=False)
            yield Document(answer.id, answer.text, synthesis.method_name, provenance)


def spent(synthesis: Synthesis) -> dict[str, bulk.Budget]:
    """By all stages, ever."""
    used = {}
    for stage in ("entities", "texts"):
        used[stage] = bulk.Budget()
        used[stage].count(Output(synthesis.work / stage, {}).answers())
    return used


def _run(synthesis: Synthesis, job: bulk.Job, folder: Path, limits: Limits) -> dict[str, Any]:
    """A bulk job, with what the other stages leave of the limits."""
    others = [used for stage, used in spent(synthesis).items() if stage != folder.name]
    max_tokens, max_cost = limits.max_tokens, limits.max_cost
    if max_tokens is not None:
        max_tokens = max(0, max_tokens - sum(used.tokens for used in others))
    if max_cost is not None:
        max_cost = max(0.0, max_cost - sum(used.cost for used in others))
    generator = synthesis.generator
    try:
        return bulk.run(
            job, folder, generator.open, model=generator.fingerprint,
            max_tokens=max_tokens, max_cost=max_cost, retry_errors=limits.retry_errors,
        )  # fmt: skip
    except bulk.BudgetSpent as stop:
        raise bulk.BudgetSpent(f"{folder.name}, of what other stages have left: {stop}") from stop


def _answers(folder: Path, experiment: Experiment) -> Iterator[Document]:
    return read_documents(open_corpus(str(folder), experiment), "stop")
