"""What a bulk job asks: of each document of a corpus, the requests that a function makes of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sbp_jax.data.corpus import Corpus, Document
from sbp_jax.inference.engine import Prompt, Sampling

Ask = tuple[Mapping[str, Any], Prompt, Sampling]  # what it is for, as JSON: tells its row's meta
PART_DOCUMENTS = 5_000


@dataclass(frozen=True)
class Job:
    """What is asked of which documents; `settings` (JSON) tell one version of `requests` from
    another, and `extent` (JSON) how far they go, where a job is done in rounds. With picklable
    `requests` it can be sent to other machines.
    """

    corpus: Corpus
    requests: Callable[[Document], Iterable[Ask]]
    settings: Mapping[str, Any]
    seed: int = 0
    part_documents: int = PART_DOCUMENTS
    extent: Any = None
    context: int = 0  # config.engine.max_length, where it is not the model's: it ends texts

    def record(self, model: str) -> dict[str, Any]:
        return {
            **({"context": self.context} if self.context else {}),
            **({} if self.extent is None else {"extent": self.extent}),
            "format": 1,
            "corpus": self.corpus.fingerprint,
            "settings": dict(self.settings),
            "seed": self.seed,
            "part_documents": self.part_documents,
            "model": model,
        }


@dataclass(frozen=True)
class Template:
    """`per_document` requests for each document: `prompt`, with the document for every {text}."""

    prompt: str
    sampling: Sampling
    chat: bool = False
    per_document: int = 1

    def __call__(self, document: Document) -> Iterator[Ask]:
        text = self.prompt.replace("{text}", document.text)
        prompt: Prompt = ({"role": "user", "content": text},) if self.chat else text
        for sample in range(self.per_document):
            yield {"sample": sample}, prompt, self.sampling
