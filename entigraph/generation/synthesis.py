"""A method at work on a library: what its stages ask, and where they leave it."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entigraph.generation import entities as naming
from entigraph.generation.generator import Generator
from entigraph.generation.methods import METHODS, Entities, Method, Parts, Texts, available
from entigraph.generation.windows import windows
from entigraph.library import Text
from entigraph.wording import Wording, wording
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Corpus, Document, OnBadRow, fingerprint
from sbp_jax.inference import bulk
from sbp_jax.inference.engine import Sampling

OVERHEAD = 200  # tokens of a prompt beside its file and the document: heading, entities, chat


@dataclass(frozen=True)
class Shelf:
    """A document as a shard: it keeps its answers whatever comes or goes beside it."""

    name: str
    document: Document

    def read(self, on_bad_row: OnBadRow) -> Iterator[Document]:
        yield self.document


@dataclass(frozen=True)
class Synthesis:
    """A method at work on a library; `folder` is W."""

    experiment: Experiment
    texts: Sequence[Text]
    method_name: str
    generator: Generator
    folder: Path

    @property
    def method(self) -> Method:
        return METHODS[self.method_name]

    @property
    def work(self) -> Path:
        return self.folder / "work" / self.method_name

    @property
    def corpus(self) -> Path:
        return self.folder / self.method_name

    @functools.cached_property
    def wording(self) -> Wording:
        own = ("entities",) if self.method.by_entities else ()
        return wording(
            self.generator.layout, own + self.method.prompts, self.experiment.entigraph.prompts
        )

    @functools.cached_property
    def windows(self) -> dict[str, list[str]]:
        c, count = self.experiment.entigraph, self.generator.count
        new = max(c.max_tokens, c.entity_tokens if self.method.by_entities else 0)
        overhead = OVERHEAD + max(count(text) for _, text in self.wording.prompts)
        room = self.generator.room(new, overhead, c.window)
        return {text.id: windows(text.text, room, count) for text in self.texts}

    def sampling(self, tokens: int, schema: bool = False) -> Sampling:
        c = self.experiment.entigraph
        return Sampling(tokens, c.temperature, c.top_p, schema=naming.SCHEMA if schema else "")

    def documents(self, entities: Mapping[str, list[str]]) -> list[Document]:
        return [
            Parts(text.heading, self.windows[text.id], entities.get(text.id, [])).document(text.id)
            for text in self.texts
        ]

    def job(self, documents: Sequence[Document], requests: Entities | Texts) -> bulk.Job:
        corpus = Corpus(
            "the library",
            [Shelf(document.id, document) for document in documents],
            fingerprint([list(vars(document).values()) for document in documents]),
        )
        settings = {
            "layout": self.wording.layout,
            "prompts": {name: self.wording.hash(name) for name in requests.prompts},
            "sampling": requests.sampling.settings(),
        }
        extent = fingerprint([requests.count(document) for document in documents])
        seed, context = self.experiment.seed, self.generator.limit
        return bulk.Job(corpus, requests, settings, seed, extent=extent, context=context)

    def entities_job(self) -> bulk.Job:
        sampling = self.sampling(self.experiment.entigraph.entity_tokens, self.generator.schema)
        return self.job(self.documents({}), Entities(self.wording, sampling))

    def texts_job(self, entities: Mapping[str, list[str]], counts: Mapping[str, int]) -> bulk.Job:
        sampling = self.sampling(self.experiment.entigraph.max_tokens)
        asks = Texts(self.method, self.wording, sampling, dict(counts), self.experiment.seed)
        return self.job(self.documents(entities), asks)

    def most(self, entities: Mapping[str, list[str]]) -> dict[str, int]:
        """Texts that there can be of each document."""
        c = self.experiment.entigraph
        samples = c.samples
        if c.tokens_per_document and not self.method.by_entities:
            samples = c.tokens_per_document  # a text has a token at least
        return {
            text.id: available(
                self.method, len(entities.get(text.id, [])), len(self.windows[text.id]),
                c.max_triples, samples,
            )
            for text in self.texts
        }  # fmt: skip

    def least(self, entities: Mapping[str, list[str]]) -> dict[str, int]:
        """Those that have to be asked for in any case."""
        c, most = self.experiment.entigraph, self.most(entities)
        if not c.tokens_per_document:
            return most
        enough = -(-c.tokens_per_document // c.max_tokens)
        return {id: min(count, enough) for id, count in most.items()}

    def keeps(self, answer: Mapping[str, Any]) -> bool:
        return self.experiment.entigraph.keep_unfinished or answer["finish_reason"] == "stop"
