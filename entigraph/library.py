"""A small library of documents to be taught: what any corpus holds, with title, author and year.

Requests and questions name a text by its heading, for without the text itself it is all that a
model has to go by.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Corpus, Document, open_corpus, read_documents
from sbp_jax.data.text_files import JSON_LINES, FileShard
from sbp_jax.errors import UserError

LONGEST_TITLE = 100  # characters of a first line that is one
ARTICLE = "article"  # QuALITY's field of the text


@dataclass(frozen=True)
class Text:
    id: str
    title: str
    author: str
    year: str
    text: str

    @property
    def heading(self) -> str:
        """One line."""
        by = f", by {self.author}" if self.author else ""
        return f'"{self.title}"{by}' + (f" ({self.year})" if self.year else "")


def read_library(spec: str, experiment: Experiment) -> list[Text]:
    """All texts of a corpus, or of QuALITY's JSONL, in the order in which they are there."""
    corpus = open_corpus(spec, experiment)
    quality = _is_quality(corpus)
    if quality:
        data = dataclasses.replace(experiment.data, text_field=ARTICLE)
        corpus = open_corpus(spec, dataclasses.replace(experiment, data=data))
    texts: dict[str, Text] = {}
    seen: set[tuple[str, str]] = set()
    for document in read_documents(corpus, experiment.data.on_error):
        text = _text(document)
        if quality and (text.title, text.author) in seen:
            continue  # the questions of a second writer: the article is the same
        seen.add((text.title, text.author))
        if text.id in texts:
            raise UserError(f"{spec}: two documents have the id {text.id!r}; give each its own")
        texts[text.id] = text
    if not texts:
        raise UserError(f"{spec}: no document in it")
    return list(texts.values())


def _is_quality(corpus: Corpus) -> bool:
    """Whether its first row is one of QuALITY's."""
    shard = corpus.shards[0] if corpus.shards else None
    if not isinstance(shard, FileShard) or not shard.name.lower().endswith(JSON_LINES):
        return False

    def stop(error: UserError) -> None:
        raise error

    try:
        first = next(dataclasses.replace(shard, text_field=ARTICLE).read(stop), None)
    except UserError:
        return False
    return first is not None and "article_id" in _meta(first)


def _text(document: Document) -> Text:
    meta = _meta(document)
    fields = {name: _line(meta.get(name)) for name in ("title", "author", "year")}
    id = _line(meta.get("article_id")) or document.id
    fields["title"] = fields["title"] or _first_line(document.text) or id
    return Text(id=id, text=document.text, **fields)


def _meta(document: Document) -> dict[str, Any]:
    try:
        meta = json.loads(document.meta or "{}")
    except ValueError:
        return {}
    return meta if isinstance(meta, dict) else {}


def _line(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())


def _first_line(text: str) -> str:
    """The title that a text begins with, if it does: a short line with more below it."""
    first, _, rest = text.strip().partition("\n")
    title = first.strip().lstrip("#").strip()
    return title if rest.strip() and 0 < len(title) <= LONGEST_TITLE else ""
