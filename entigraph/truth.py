"""The share of synthetic sentences that a judge, shown the document, takes for true."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entigraph.extractive import sentences
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

LEAST = 5  # words of a sentence that is judged


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
    unclear and for nothing else.
    """
    of = {text.id: text for text in source}
    every = [
        (id, sentence)
        for id, text in texts
        for sentence in sentences(text)
        if len(sentence.split()) >= LEAST and not sentence.startswith("#")
    ]
    draw = random.Random(f"{e.seed} sentences")
    some = draw.sample(every, min(e.entigraph.judged, len(every)))
    documents = tuple(
        Document(str(i), said, "", json.dumps({"heading": of[id].heading, "text": of[id].text}))
        for i, (id, said) in enumerate(some)
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
    verdicts = [verdict(said.get(number, "")) for number in range(len(some))]
    return {
        "share": share(np.array([v == "yes" for v in verdicts if v])),
        "sentences": len(some),
        "unclear": verdicts.count(""),
        "false": [some[i][1] for i, v in enumerate(verdicts) if v == "no"][:10],
        "judge": {"engine": judge.kind, "fingerprint": judge.fingerprint()},
        "prompt": files.sha256(prompt.encode()),
    }


def verdict(answer: str) -> str:
    """The first of the words yes and no, which a judge may give a reason for afterwards."""
    words = normal_form(answer).decode().split()
    return next((word for word in words if word in ("yes", "no")), "")
