"""Synthetic documents: what a synthesizer answers to seeds of the corpus, and which answers stay.

Every document of the corpus is a seed equally often, with seeds of its own for each sample. Answers
are kept in a bulk job's folder; those that pass the filters make the synthetic corpus, each with
its provenance: seed document, sample, model. The number of samples grows until the corpus has the
tokens that were asked for; a sample that is there is not drawn again.

The filters hold hashes of the corpus in memory, and the answers' shingles in a file. Of two texts
that are alike the first in the order of the answers stays.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import (
    Corpus,
    Document,
    fingerprint,
    open_corpus,
    read_documents,
    write_corpus,
)
from sbp_jax.data.ngrams import batches, normal_form
from sbp_jax.data.tokenizer import Tokenizer
from sbp_jax.errors import UserError
from sbp_jax.evaluation import leaks
from sbp_jax.inference import bulk
from sbp_jax.inference.bulk.job import Ask
from sbp_jax.inference.engine import EngineOpener, Sampling
from sbp_jax.pairing.overlap import overlap, shingles
from sbp_jax.synthesis import near

log = logging.getLogger(__name__)
TOGETHER = 1_000  # documents whose overlaps are measured together
KEPT = 0
REASONS = (  # why an answer is left out, in the order in which they are looked for
    "kept",
    "unfinished",
    "in_the_corpus",
    "copies",  # of d1
    "repeated",
    "contaminated",
    "near_the_corpus",
    "near_another",
)


@dataclass(frozen=True)
class Unconditional:
    """The control: as many texts, from the beginning of a text instead of a document."""

    sampling: Sampling
    per_document: int

    def __call__(self, document: Document) -> Iterator[Ask]:
        for sample in range(self.per_document):
            yield {"sample": sample}, "", self.sampling


def synthesize(
    experiment: Experiment,
    corpus: Corpus,
    engine: EngineOpener,
    folder: Path,
    *,
    tokens: int,  # that the kept documents have to have
    tokenizer: Tokenizer,
    conditional: bool = True,
    evaluation: Corpus | None = None,  # as for `filtered`
) -> dict[str, Any]:
    """Makes `folder`/kept, a corpus, and returns its manifest."""
    kept = folder / "kept"
    s = experiment.synthesis
    sampling = Sampling(s.max_tokens, s.temperature, s.top_p, s.top_k)
    model, seeds = engine.fingerprint(), _count(corpus, experiment.data.on_error)
    per_document, before = s.per_document, 0
    while True:
        ask: Any = Unconditional(sampling, per_document)
        if conditional:
            ask = bulk.Template(s.prompt, sampling, per_document=per_document)
        settings = {"prompt": s.prompt if conditional else "", "per_document": per_document}
        settings |= {"sampling": sampling.settings()}
        job = bulk.Job(corpus, ask, settings, experiment.seed)
        answered = bulk.run(job, folder / "answers", engine, model=model)
        manifest = filtered(experiment, corpus, folder / "answers", kept, tokenizer, evaluation)
        if manifest["tokens"] >= tokens:
            return manifest | {
                "prompt_tokens": answered["prompt_tokens"],
                "drawn": answered["tokens"],
            }
        if not manifest["tokens"]:
            counts = manifest["counts"]
            taken = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            remedy = "tune the synthesizer longer, or loosen the filters of config.synthesis"
            if 2 * counts["unfinished"] >= counts["answers"]:
                remedy = "raise config.synthesis.max_tokens, or tune the synthesizer longer"
            raise UserError(
                f"{folder}: no synthetic document passes the filters ({taken}); {remedy}"
            )
        if manifest["tokens"] == before:
            raise UserError(
                f"{folder}: {per_document} samples of each document leave no more tokens than "
                f"fewer did, {before:,} of {tokens:,}: the others are repeats; raise "
                "config.synthesis.temperature or max_similarity, or lower arms.synthetic_share"
            )
        before = manifest["tokens"]
        more = per_document * (tokens - manifest["tokens"]) / manifest["tokens"]
        per_document += max(1, math.ceil(1.05 * more))
        log.info(
            "synthesis: %s of %s tokens; %d samples of each of %s documents",
            f"{manifest['tokens']:,}", f"{tokens:,}", per_document, f"{seeds:,}",
        )  # fmt: skip


def filtered(
    experiment: Experiment,
    corpus: Corpus,
    answers: Path,
    output: Path,
    tokenizer: Tokenizer,
    evaluation: Corpus | None = None,
) -> dict[str, Any]:
    """The corpus of the answers that stay; its manifest counts what each filter took, one after the
    other. None may hold what `evaluation` does, which is config.eval.input's unless it is given.
    """
    s, p = experiment.synthesis, experiment.pairing
    source = files.read_manifest(answers)
    if not s.decontaminate:
        evaluation = None
    elif evaluation is None and experiment.eval.input:
        evaluation = open_corpus(experiment.eval.input, experiment)
    filters = {
        "corpus": corpus.fingerprint,
        "evaluation": evaluation.fingerprint if evaluation else "",
        "pairing": [p.shingle, p.max_overlap],
        "synthesis": [s.max_overlap, s.max_similarity],
    }
    work = output / "work"
    if files.has_manifest(output):
        manifest = files.read_manifest(output)
        if [manifest.get("answers"), manifest.get("filters")] == [source["sha256"], filters]:
            shutil.rmtree(work, ignore_errors=True)  # of a kill between the manifest and this
            return manifest
    place = work / fingerprint(source["sha256"], filters)[:16]
    reasons = _reasons(experiment, corpus, answers, evaluation, place)
    tokens = 0

    def kept() -> Iterator[Document]:
        nonlocal tokens
        for document, reason in zip(_read(answers, experiment), reasons, strict=True):
            if reason == KEPT:
                tokens += len(tokenizer.encode([document.text])[0]) + 1
                yield document

    documents = write_corpus(kept(), output)
    taken = np.bincount(reasons, minlength=len(REASONS)).tolist()[1:]
    manifest = {
        **documents,
        "answers": source["sha256"],
        "filters": filters,
        "tokens": tokens,
        "counts": {"answers": len(reasons), **dict(zip(REASONS[1:], taken, strict=True))},
    }
    files.write_manifest(output, manifest)
    shutil.rmtree(work, ignore_errors=True)
    return manifest


def _reasons(
    experiment: Experiment, corpus: Corpus, answers: Path, evaluation: Corpus | None, work: Path
) -> np.ndarray:
    """Of each answer, the place in REASONS of the first filter that takes it."""
    s, p, on_error = experiment.synthesis, experiment.pairing, experiment.data.on_error
    of_corpus = np.unique(
        np.fromiter((_form(d.text) for d in read_documents(corpus, on_error)), np.uint64)
    )
    held_out = leaks.of_documents(
        [[d.text for d in read_documents(evaluation, on_error)] if evaluation else []]
    )
    no = np.zeros(0, bool)
    parts = [(no, np.zeros(0, np.uint64), no, no)]
    spool = near.Spool(work)
    answered = _with_seeds(_read(answers, experiment), corpus, on_error)
    while some := list(islice(answered, TOGETHER)):
        documents, metas, seeds = zip(*some, strict=True)
        own = shingles([document.text for document in documents], p.shingle)
        theirs = shingles(list(seeds), p.shingle)
        unfinished = np.array([meta["finish_reason"] != "stop" for meta in metas])
        form = np.array([_form(document.text) for document in documents], np.uint64)
        shares = np.array([overlap(d2, d1) for d2, d1 in zip(own, theirs, strict=True)])
        leaked = np.zeros(len(documents), bool)
        lines = ((i, normal_form(document.text)) for i, document in enumerate(documents))
        for numbers, words in batches(lines):
            for line, _, _ in held_out.find(words):
                leaked[numbers[line]] = True
        parts.append((unfinished, form, shares > p.max_overlap, leaked))
        spool.add(own)
    unfinished, form, copied, contaminated = (np.concatenate(c) for c in zip(*parts, strict=True))
    reasons = np.full(len(form), KEPT, np.int8)

    def take(name: str, taken: np.ndarray) -> None:
        reasons[(reasons == KEPT) & taken] = REASONS.index(name)

    take("unfinished", unfinished)
    take("in_the_corpus", np.isin(form, of_corpus))
    take("copies", copied)
    left = np.flatnonzero(reasons == KEPT)
    again = np.ones(len(form), bool)
    again[left[np.unique(form[left], return_index=True)[1]]] = False
    take("repeated", again)
    take("contaminated", contaminated)
    sets = spool.sets()

    def take_of_left(name: str, taken: Callable[[near.Sets], np.ndarray]) -> None:
        left = np.flatnonzero(reasons == KEPT)
        reasons[left[taken(sets.take(left))]] = REASONS.index(name)

    if s.max_overlap < 1:
        take_of_left(
            "near_the_corpus",
            lambda sets: (
                near.largest_overlaps(
                    sets,
                    corpus,
                    p.shingle,
                    work / "corpus",
                    at_least=s.max_overlap,
                    on_error=on_error,
                    workers=experiment.data.workers,
                )
                > s.max_overlap
            ),
        )
    if s.max_similarity < 1:
        take_of_left("near_another", lambda sets: near.repeats(sets, s.max_similarity))
    return reasons


def _with_seeds(
    answers: Iterator[Document], corpus: Corpus, on_error: str
) -> Iterator[tuple[Document, dict[str, Any], str]]:
    """Each answer with its meta and its seed's text; answers are in the order of their seeds."""
    seeds = read_documents(corpus, on_error)
    seed = None
    for answer in answers:
        meta = json.loads(answer.meta)
        while seed is None or seed.id != meta["document"]:
            seed = next(seeds, None)
            if seed is None:
                raise UserError(
                    f"{corpus.name}: has no document {meta['document']!r}, of which there is an "
                    "answer, or has it in another place now; synthesize into another folder"
                )
        yield answer, meta, seed.text


def _read(answers: Path, experiment: Experiment) -> Iterator[Document]:
    return read_documents(open_corpus(str(answers), experiment), "stop")


def _form(text: str) -> int:
    return int.from_bytes(hashlib.sha256(normal_form(text)).digest()[:8], "big")


def _count(corpus: Corpus, on_error: str) -> int:
    return sum(1 for _ in read_documents(corpus, on_error))
