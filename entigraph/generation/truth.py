"""The share of synthetic sentences that a judge, shown the document, takes for true.

The same judge is asked, config.quality.calibration times, about sentences whose truth is known: the
library's own, and as many in which a name stands that the document does not have. How often it is
right stands beside what it says.
"""

import functools
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entigraph.generation.entities import merged, names, pattern
from entigraph.generation.extractive import found_entities, sentences
from entigraph.library import Text
from entigraph.wording import PROMPTS, filled
from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Corpus, Document, OnBadRow, fingerprint, open_corpus, read_documents
from sbp_jax.data.ngrams import normal_form
from sbp_jax.inference import bulk
from sbp_jax.inference.bulk.job import Ask
from sbp_jax.inference.engine import EngineOpener, Prompt, Sampling
from sbp_jax.synthesis.figures import share
from sbp_jax.synthesis.judge import corrected, rates

LEAST = 5  # words of a sentence that is judged
TRIES = 20  # at a name of another document that is no name of this one


@dataclass(frozen=True)
class Sentences:
    """A question about a sentence; its document is in the meta."""

    prompt: str
    sampling: Sampling
    chat: bool

    def __call__(self, document: Document) -> Iterator[Ask]:
        asked = filled(self.prompt, json.loads(document.meta) | {"sentence": document.text})
        prompt: Prompt = ({"role": "user", "content": asked},) if self.chat else asked
        yield {}, prompt, self.sampling


@dataclass(frozen=True)
class Sample:
    """The sentences, as a shard."""

    name: str
    documents: tuple[Document, ...]

    def read(self, on_bad_row: OnBadRow) -> Iterator[Document]:
        yield from self.documents


def factual(
    e: Experiment,
    texts: Sequence[tuple[str, str]],
    source: Sequence[Text],
    judge: EngineOpener,
    folder: Path,
) -> dict[str, Any]:
    """Of texts, each with the id of its document before it. What is neither yes nor no counts as
    unclear and for nothing else. `corrected` is the share of true ones of which a judge with these
    mistakes would say what this one said.
    """
    of = {text.id: text for text in source}
    every = [(id, sentence) for id, text in texts for sentence in _long(text)]
    draw = random.Random(f"{e.seed} sentences")
    some = draw.sample(every, min(e.entigraph.judged, len(every)))
    known = list(itertools.islice(calibration(source, e.seed), e.quality.calibration))
    asked = [*some, *((id, said) for id, said, _ in known)]
    documents = tuple(
        Document(str(i), said, "", json.dumps({"heading": of[id].heading, "text": of[id].text}))
        for i, (id, said) in enumerate(asked)
    )
    prompt = (PROMPTS / "sentence.txt").read_text().strip()
    sampling = Sampling(e.quality.answer_tokens, temperature=0.0)
    ask = Sentences(prompt, sampling, e.entigraph.chat)
    settings = {"prompt": prompt, "chat": ask.chat, "sampling": sampling.settings()}
    key = fingerprint([list(vars(document).values()) for document in documents])
    corpus = Corpus("the sentences", [Sample("sentences", documents)], key)
    bulk.run(bulk.Job(corpus, ask, settings, e.seed), folder, judge, model=judge.fingerprint())
    said = {}
    for answer in read_documents(open_corpus(str(folder), e), "stop"):
        said[int(json.loads(answer.meta)["document"])] = answer.text
    every_verdict = [verdict(said.get(number, "")) for number in range(len(asked))]
    verdicts, of_known = every_verdict[: len(some)], every_verdict[len(some) :]
    found = share(np.array([v == "yes" for v in verdicts if v]))
    rated = rates([(right, v) for (_, _, right), v in zip(known, of_known, strict=True)])
    false = None
    if found["value"] is not None:
        false = corrected(1 - found["value"], len(verdicts) - verdicts.count(""), rated)
    return {
        "share": found,
        "calibration": rated,
        "corrected": false and {"value": 1 - false["value"], "stderr": false["stderr"]},
        "sentences": len(some),
        "unclear": verdicts.count(""),
        "false": [some[i][1] for i, v in enumerate(verdicts) if v == "no"][:10],
        "judge": {"engine": judge.kind, "fingerprint": judge.fingerprint()},
        "prompt": files.sha256(prompt.encode()),
    }


def calibration(source: Sequence[Text], seed: int) -> Iterator[tuple[str, str, bool]]:
    """Id of a document, sentence, whether it is true; in turn, as many as there are."""
    draw = random.Random(f"{seed} calibration")
    every = [(text, sentence) for text in source for sentence in _long(text.text)]
    draw.shuffle(every)
    false = _false(every[::-1], source, draw)
    for text, sentence in every:
        yield text.id, sentence, True
        if (wrong := next(false, None)) is None:
            return
        yield *wrong, False


def _false(
    every: Sequence[tuple[Text, str]], source: Sequence[Text], draw: random.Random
) -> Iterator[tuple[str, str]]:
    """Of sentences that name somebody, or something: with a name that their document lacks."""
    named = functools.cache(_names)
    for text, sentence in every:
        told = [name for name in named(text.text) if pattern(name).search(sentence)]
        for _ in range(TRIES if told else 0):
            others = named(draw.choice(source).text)
            other = draw.choice(others) if others else ""
            if other and not pattern(other).search(text.text):
                yield text.id, other.join(pattern(draw.choice(told)).split(sentence))
                break


def _names(text: str) -> list[str]:
    found = [names(entity)[0] for entity in merged([found_entities(text)])]
    return [name for name in found if name[0].isupper()]


def _long(text: str) -> list[str]:
    """Sentences that say something."""
    return [s for s in sentences(text) if len(s.split()) >= LEAST and not s.startswith("#")]


def verdict(answer: str) -> str:
    """The first of the words yes and no, which a judge may give a reason for afterwards."""
    words = normal_form(answer).decode().split()
    return next((word for word in words if word in ("yes", "no")), "")
