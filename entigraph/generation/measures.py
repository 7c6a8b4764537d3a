"""The figures of a synthetic corpus. Words are those of sbp_jax/data/ngrams.py.

- tokens: by config.data.tokenizer, or three bytes each; words.
- distinct_N: different n-grams among all, of the whole corpus.
- self_similarity: of a text's 4-grams, the share that another text has, too; mean over texts.
- overlap_N: of a text's n-grams, the share that its own document has: the paper's table.
- entity_coverage, pair_coverage: of a document's entities, as they are found without a model, and
  of their pairs, the share that its texts name, and name in one text.
- contaminated: questions 13 words of which in a row (or all, of 8 to 12) stand in a synthetic text,
  and in_source, in the library; a question that quotes its document is in both.
- factual: sentences, config.entigraph.judged of them, that the judge takes for true; truth.py.

Means and shares have 95% intervals over texts or documents; where a corpus has more texts than
config.quality.samples, all but tokens and coverage is of so many, drawn with the seed.
"""

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entigraph.generation.entities import merged, pattern
from entigraph.generation.extractive import found_entities
from entigraph.generation.truth import factual
from entigraph.library import Text
from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import open_corpus, read_documents
from sbp_jax.data.ngrams import Words, batches, normal_form
from sbp_jax.errors import UserError
from sbp_jax.evaluation import leaks
from sbp_jax.inference.engine import EngineOpener
from sbp_jax.synthesis.figures import mean, share

FILE = "results.json"
OVERLAPS, DISTINCT, SIMILAR = (2, 4, 8, 16), (1, 2, 3, 4), 4  # words in a row


@dataclass(frozen=True)
class Synthetic:
    document: str  # the id of the one that it is about
    text: str
    tokens: int


def read_synthetic(spec: str, e: Experiment, source: Sequence[Text], count: Any) -> list[Synthetic]:
    known, texts = {text.id for text in source}, []
    for document in read_documents(open_corpus(spec, e), "stop"):
        meta = json.loads(document.meta or "{}")
        origin = meta.get("document") if isinstance(meta, dict) else None
        if origin not in known:
            raise UserError(
                f"{spec}: row {document.id}: its meta names {origin!r} as its document, which "
                "--source does not have; name the library that it was made from"
            )
        texts.append(Synthetic(origin, document.text, count(document.text)))
    if not texts:
        raise UserError(f"{spec}: no text in it")
    return texts


def measure(
    e: Experiment,
    texts: Sequence[Synthetic],
    source: Sequence[Text],
    output: Path,
    questions: Sequence[str] | None = None,
    judge: EngineOpener | None = None,
) -> dict[str, Any]:
    """Writes output/results.json and the plot; returns what is in it."""
    drawn = list(texts)
    if len(texts) > e.quality.samples:
        numbers = random.Random(f"{e.seed} quality").sample(range(len(texts)), e.quality.samples)
        drawn = [texts[i] for i in sorted(numbers)]
    results: dict[str, Any] = {
        "texts": len(texts),
        "measured": len(drawn),
        "documents": len({text.document for text in texts}),
        "library": len(source),
        "tokens": sum(text.tokens for text in texts),
        "words": mean(float(normal_form(text.text).count(b" ") + 1) for text in drawn),
        **_diversity([text.text for text in drawn]),
        **_overlaps(drawn, source),
        **_coverage(texts, source),
    }
    if questions is not None:
        results["contamination"] = _contamination([t.text for t in texts], source, questions)
    if judge:
        results["factual"] = factual(
            e, [(text.document, text.text) for text in drawn], source, judge, output / "judge"
        )
    files.write_bytes(output / "overlap.png", plot(results))
    files.write_json(output / FILE, results)
    return results


def _grams(texts: Sequence[str], n: int) -> list[np.ndarray]:
    """The hashes of every n words in a row of each text, repeated ones as often."""
    found = [np.zeros(0, np.uint64)] * len(texts)
    for names, words in batches((i, normal_form(text)) for i, text in enumerate(texts)):
        first, hashes = words.grams(n)
        lines = words.lines[first]
        for line, name in enumerate(names):
            start, stop = np.searchsorted(lines, [line, line + 1])
            found[name] = hashes[start:stop]
    return found


def _diversity(texts: Sequence[str]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for n in DISTINCT:
        every = np.concatenate([np.zeros(0, np.uint64), *_grams(texts, n)])
        figures[f"distinct_{n}"] = len(np.unique(every)) / len(every) if len(every) else None
    own = [np.unique(grams) for grams in _grams(texts, SIMILAR)]
    every, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *own]), return_counts=True)
    shared = every[counts > 1]
    similar = [float(np.isin(grams, shared).mean()) for grams in own if len(grams)]
    return {**figures, "self_similarity": mean(similar)}


def _overlaps(texts: Sequence[Synthetic], source: Sequence[Text]) -> dict[str, Any]:
    figures = {}
    for n in OVERLAPS:
        whole = zip((t.id for t in source), _grams([t.text for t in source], n), strict=True)
        of = {id: np.unique(grams) for id, grams in whole}
        every = zip(texts, _grams([text.text for text in texts], n), strict=True)
        shares = [float(np.isin(g, of[text.document]).mean()) for text, g in every if len(g)]
        figures[f"overlap_{n}"] = mean(shares)
    return figures


def _coverage(texts: Sequence[Synthetic], source: Sequence[Text]) -> dict[str, Any]:
    of: dict[str, list[str]] = {text.id: [] for text in source}
    for text in texts:
        of[text.document].append(text.text)
    single, double = [], []
    for document in source:
        known = [pattern(name) for name in merged([found_entities(document.text)])]
        seen: set[int] = set()
        pairs: set[tuple[int, int]] = set()
        for one in of[document.id]:
            named = [i for i, name in enumerate(known) if name.search(one)]
            seen.update(named)
            pairs.update(itertools.combinations(named, 2))
        if len(known) > 1:
            single.append(len(seen) / len(known))
            double.append(len(pairs) * 2 / (len(known) * (len(known) - 1)))
    return {"entity_coverage": mean(single), "pair_coverage": mean(double)}


def _contamination(
    texts: Sequence[str], source: Sequence[Text], questions: Sequence[str]
) -> dict[str, Any]:
    known = leaks.of_documents([questions])
    found = [_leaked(known, some) for some in (texts, [text.text for text in source])]
    there = np.array([number in found[0] for number in range(len(questions))])
    return {
        "questions": len(questions),
        "too_short": int(known.too_short.sum()),
        "contaminated": share(there),
        "in_source": len(found[1]),
        "not_from_source": len(found[0] - found[1]),
        "examples": [questions[number] for number in sorted(found[0])[:5]],
    }


def _leaked(known: leaks.Leaks, texts: Sequence[str]) -> set[int]:
    found: set[int] = set()
    words: Words
    for _, words in batches((None, normal_form(text)) for text in texts):
        found.update(number for _, number, _ in known.find(words, found))
    return found


def plot(results: Mapping[str, Any]) -> bytes:
    from sbp_jax.reporting.figures import Interval, Intervals
    from sbp_jax.reporting.plots import png

    names = [f"overlap_{n}" for n in OVERLAPS]
    names += ["self_similarity", "entity_coverage", "pair_coverage"]
    rows = [
        Interval(name.replace("_", " "), 0, figure["value"], figure["low"], figure["high"])
        for name in names
        if (figure := results[name])["value"] is not None
    ]
    return png(Intervals("Synthetic texts beside their documents", "share", rows))


def table(results: Mapping[str, Any]) -> str:
    lines = [f"{results['texts']:,} texts of {results['documents']:,} documents, "
             f"{results['tokens']:,} tokens", ""]  # fmt: skip
    for name, value in results.items():
        figure = value.get("share", value.get("contaminated", value)) if _is(value) else value
        if _is(figure) and figure.get("value") is not None:
            low, high = figure["low"], figure["high"]
            within = f"  ({low:.4f} to {high:.4f})" if low is not None else ""
            lines.append(f"{name:16} {figure['value']:10.4f}{within}")
        elif isinstance(figure, float):
            lines.append(f"{name:16} {figure:10.4f}")
    if judged := results.get("factual"):
        lines += ["", *_about_the_judge(judged)]
    return "\n".join(lines)


def _about_the_judge(judged: Mapping[str, Any]) -> list[str]:
    known, corrected = judged["calibration"], judged["corrected"]
    if not known["questions"]:
        return []
    false = [known["false_positive_rate"], known["false_negative_rate"]]
    alarms, missed = ("–" if rate is None else f"{rate:.0%}" for rate in false)
    lines = [
        f"The judge, on {known['questions']} sentences of known truth: {known['accuracy']:.0%} "
        f"right; {alarms} of the true ones called false, {missed} of the false ones true."
    ]
    if corrected:
        lines += [
            f"factual, corrected by this: {corrected['value']:.4f} ± {corrected['stderr']:.4f}"
        ]
    return lines


def _is(value: Any) -> bool:
    return isinstance(value, dict)
