"""How good synthetic documents are, beside the real ones: the paper's five figures, and more.

The paper names its metrics without defining them. Ours, of a sample of documents each, unless it
says otherwise (words are those of data/ngrams.py, shingles pairing.shingle of them in a row):

- repetition: documents more than quality.repetition of whose words lie in 5-grams that the same
  document has had before. (Gopher's filter has a like bound, 15% of characters.)
- duplicate: documents, among as many as quality.duplicates, that are nearly one before them
  (near.repeats), by more than quality.similarity.
- pair_copying: d2's that share more than quality.max_overlap of the shorter text's shingles with
  their d1.
- corpus_copying: the same with any document of the corpus; corpus_overlap is the mean of the
  largest share.
- pair_irrelevance, non_factual: d2's that are not about d1's subject, and that say anything false.
  `judged` by a model (judge.py); in the toy world also `exact`: one minus the probability, given
  d2, that it is about d1's concept; and that every fact it states is true (toy_grades.py).
- novelty_N: N-grams, repeated ones as often, that are nowhere in the corpus.
- words, tokens: of a document.

figures.py says how large their errors are.
"""

import dataclasses
import heapq
import json
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Corpus, Document, fingerprint, read_documents
from sbp_jax.data.ngrams import batches, normal_form
from sbp_jax.data.tokenizer import Tokenizer
from sbp_jax.data.toyworld import World
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import EngineOpener
from sbp_jax.pairing.overlap import overlap, shingles
from sbp_jax.synthesis import judge as judging
from sbp_jax.synthesis import near, toy_grades
from sbp_jax.synthesis.examples import read_pairs
from sbp_jax.synthesis.figures import mean, ratio, share
from sbp_jax.synthesis.novelty import novelty

FILE = "quality.json"
VERSION = 1  # of the definitions
REPEATED = 5  # words in a row
TOGETHER = 1_000
log = logging.getLogger(__name__)


class Pair(NamedTuple):
    id1: str
    d1: str
    d2: str


def measure(
    experiment: Experiment,
    corpus: Corpus,
    synthetic: Corpus,
    folder: Path,
    *,
    real: Corpus | None = None,
    pairs: Path | None = None,
    judge: EngineOpener | None = None,
    tokenizer: Tokenizer | None = None,
) -> dict[str, Any]:
    """Writes folder/quality.json unless it is there for these inputs; returns what is in it.

    `corpus` is what the synthesizer was tuned on and has its seeds from. `real` are other documents
    of the same kind, for the figures beside: the corpus itself if there are none, of which no
    novelty can be told. `pairs` is a folder of sbp_jax.pair, for the figures of real pairs.
    """
    e = experiment
    judged_by = judging.identity(judge) if judge else None
    inputs = {
        "version": VERSION,
        "corpus": [corpus.name, corpus.fingerprint],
        "synthetic": [synthetic.name, synthetic.fingerprint],
        "real": [real.name, real.fingerprint] if real else None,
        "pairs": files.read_manifest(pairs)["sha256"] if pairs else None,
        "judge": judged_by,
        "tokenizer": tokenizer.fingerprint if tokenizer else None,
        "quality": dataclasses.asdict(e.quality),
        "shingle": e.pairing.shingle,
        "toyworld": dataclasses.asdict(e.toyworld),
        "seed": e.seed,
    }
    key = fingerprint(inputs)
    path = folder / FILE
    if path.exists() and (record := _read(path)).get("key") == key:
        return record
    work = folder / "quality" / key[:16]
    with files.exclusive(folder / "quality" / "lock", f"{folder}: another process measures there"):
        drawn = sample(synthetic, e, "synthetic")
        beside = sample(real or corpus, e, "real")
        related = {
            "synthetic": _with_seeds(drawn, corpus, e),
            "real": _real_pairs(pairs, e) if pairs else [],
        }
        figures: dict[str, dict[str, Any]] = {}
        for name, source, documents, other in (
            ("synthetic", synthetic, drawn, True),
            ("real", real or corpus, beside, real is not None),
        ):
            log.info("quality: %s documents of %s", f"{len(documents):,}", source.name)
            texts = [document.text for document in documents]
            figures[name] = {
                "documents": len(documents),
                **_of_texts(e, texts, tokenizer),
                "duplicate": _duplicate(source, e, work / name / "shingles"),
                **(_against(corpus, texts, e, work / name) if other else {}),
                **_of_pairs(related[name], e),
                **_exact(documents, related[name], e),
            }
        calibration = None
        if judge:
            found = judging.judge(e, _cases(related, e), judge, work / "judge")
            calibration = found["calibration"]
            for name, said in found["groups"].items():
                figures[name] |= _judged(said, calibration)
        record = {
            "key": key,
            "inputs": inputs,
            **figures,
            "judge": {**judged_by, "calibration": calibration} if judged_by else None,
        }
        files.write_json(path, record)
        for part in ("synthetic", "real"):
            shutil.rmtree(work / part, ignore_errors=True)  # of the judge, the answers stay
    return record


def sample(corpus: Corpus, experiment: Experiment, name: str) -> list[Document]:
    """quality.samples documents, in their order, each as likely as any other."""
    rows = _rows(corpus, experiment, experiment.quality.samples, name)
    return list(_at(corpus, experiment, rows))


def _rows(corpus: Corpus, experiment: Experiment, most: int, name: str) -> np.ndarray:
    count = sum(1 for _ in read_documents(corpus, experiment.data.on_error))
    if not count:
        raise UserError(f"{corpus.name}: no document in it, of which quality could be measured")
    if count <= most:
        return np.arange(count)
    seed = int(files.sha256(f"{experiment.seed} quality {name}".encode())[:16], 16)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _at(corpus: Corpus, experiment: Experiment, rows: np.ndarray) -> Iterator[Document]:
    wanted = iter(rows.tolist())
    row = next(wanted, None)
    for number, document in enumerate(read_documents(corpus, experiment.data.on_error)):
        if number == row:
            yield document
            row = next(wanted, None)
            if row is None:
                return


def _with_seeds(documents: list[Document], corpus: Corpus, e: Experiment) -> list[Pair]:
    """Those whose meta names their seed, with its text."""
    names = [json.loads(document.meta).get("document") for document in documents]
    wanted = set(names) - {None}
    texts = {}
    for seed in read_documents(corpus, e.data.on_error) if wanted else ():
        if seed.id in wanted:
            texts[seed.id] = seed.text
    if missing := sorted(wanted - texts.keys()):
        raise UserError(
            f"{corpus.name}: has no document {missing[0]!r}, which a synthetic one names as its "
            "seed; give the corpus that was synthesized from"
        )
    return [
        Pair(name, texts[name], document.text)
        for name, document in zip(names, documents, strict=True)
        if name is not None
    ]


def _real_pairs(folder: Path, e: Experiment) -> list[Pair]:
    def drawn(numbered: tuple[int, Any]) -> str:
        return files.sha256(f"{e.seed} quality pairs {numbered[0]}".encode())

    some = heapq.nsmallest(e.quality.samples, enumerate(read_pairs(folder)), key=drawn)
    return [Pair(pair.id1, pair.d1, pair.d2) for _, pair in sorted(some)]


def _of_texts(e: Experiment, texts: list[str], tokenizer: Tokenizer | None) -> dict[str, Any]:
    shares = repeated_shares(texts)
    lengths = {"words": [len(normal_form(text).split()) for text in texts]}
    if tokenizer:
        lengths["tokens"] = [len(ids) for ids in tokenizer.encode(texts)]
    return {
        "repetition": share(shares > e.quality.repetition),
        "repeated_words": mean(shares),
        **{name: mean(counts, quantiles=True) for name, counts in lengths.items()},
    }


def repeated_shares(texts: Sequence[str]) -> np.ndarray:
    """Of each text, the share of its words in 5-grams that it has had before."""
    shares = np.zeros(len(texts))
    for numbers, words in batches((i, normal_form(text)) for i, text in enumerate(texts)):
        first, hashes = words.grams(REPEATED)
        line = words.lines[first]
        order = np.lexsort((first, hashes, line))
        same = (np.diff(hashes[order]) == 0) & (np.diff(line[order]) == 0)
        again = first[order[1:][same]]
        change = np.zeros(len(words.lines) + 1, np.int64)
        np.add.at(change, again, 1)
        np.add.at(change, again + REPEATED, -1)
        covered = np.cumsum(change)[:-1] > 0
        counts = np.bincount(words.lines, minlength=len(numbers))
        shares[numbers] = np.bincount(words.lines, covered, len(numbers)) / counts
    return shares


def _duplicate(corpus: Corpus, e: Experiment, work: Path) -> dict[str, Any]:
    rows = _rows(corpus, e, e.quality.duplicates, "duplicates")
    spool, documents = near.Spool(work), _at(corpus, e, rows)
    while some := [document.text for document in islice(documents, TOGETHER)]:
        spool.add(shingles(some, e.pairing.shingle))
    return share(near.repeats(spool.sets(), e.quality.similarity))


def _against(corpus: Corpus, texts: list[str], e: Experiment, work: Path) -> dict[str, Any]:
    """What the texts have of the corpus that they are not in."""
    largest = near.largest_overlaps(
        near.sets_of(texts, e.pairing.shingle),
        corpus,
        e.pairing.shingle,
        work / "overlap",
        on_error=e.data.on_error,
        workers=e.data.workers,
    )
    return {
        "corpus_copying": share(largest > e.quality.max_overlap),
        "corpus_overlap": mean(largest, quantiles=True),
        **novelty(corpus, texts, e, work / "novelty"),
    }


def _of_pairs(pairs: list[Pair], e: Experiment) -> dict[str, Any]:
    if not pairs:
        return {}
    sides = [
        shingles(list(texts), e.pairing.shingle) for texts in list(zip(*pairs, strict=True))[1:]
    ]
    shares = np.array([overlap(d2, d1) for d1, d2 in zip(*sides, strict=True)])
    return {"pair_copying": share(shares > e.quality.max_overlap), "pair_overlap": mean(shares)}


def _exact(documents: list[Document], pairs: list[Pair], e: Experiment) -> dict[str, Any]:
    """In the toy world, which seeds and real documents are known to be of by id and text."""
    first = [Pair(document.id, document.text, "") for document in documents[:1]]
    if not any(pair.id1.startswith("toyworld/") for pair in [*pairs[:1], *first]):
        return {}
    world = World(e.toyworld)
    concepts = [toy_grades.concept_of(world, pair.id1, pair.d1) for pair in pairs]
    if pairs and None in concepts:
        raise UserError(
            f"document {pairs[concepts.index(None)].id1!r} is not config.toyworld's: give the "
            "config that the corpus was made with"
        )
    grades = [toy_grades.grade(world, document.text) for document in documents]
    stating = [g for g in grades if not math.isnan(g.accuracy)]
    unparsed = np.array([(g.unparsed, g.sentences) for g in grades])
    kept = [
        toy_grades.subject_kept(world, concept, pair.d2)
        for concept, pair in zip(concepts, pairs, strict=True)
        if concept is not None
    ]
    return {
        "exact": {
            "pair_irrelevance": mean(1 - p for p in kept),
            "subject_kept": mean(kept),
            "non_factual": mean(1 - g.all_true for g in stating),
            "fact_accuracy": mean(g.accuracy for g in stating),
            "without_facts": share(np.array([math.isnan(g.accuracy) for g in grades])),
            "malformed": share(unparsed[:, 0] > 0),
            "unparsed_sentences": ratio(*unparsed.T),
        }
    }


def _cases(related: dict[str, list[Pair]], e: Experiment) -> Iterator[judging.Case]:
    for group, pairs in related.items():
        for number, pair in enumerate(pairs):
            yield judging.Case(group, f"{number:06d}", pair.d1, pair.d2)
    known = toy_grades.calibration(e.toyworld, e.quality.calibration, e.seed)
    for number, q in enumerate(known):
        name = f"{number:06d}"
        yield judging.Case("calibration", name, q.d1, q.d2, (q.name,), q.right)


def _judged(
    said: dict[str, dict[str, int]], calibration: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    figures = {}
    for question, metric in (("related", "pair_irrelevance"), ("factual", "non_factual")):
        counts = said[question]
        answers = np.repeat([False, True], [counts["yes"], counts["no"]])
        figure = share(answers) | {k: counts[k] for k in ("unclear", "unanswered")}
        if len(answers):
            known = calibration[question]
            figure["corrected"] = judging.corrected(figure["value"], len(answers), known)
        figures[metric] = figure
    return {"judged": figures}


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        if not isinstance(record, dict):
            raise ValueError("no object")
        return record
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); delete it and measure again") from error
