"""Beginnings of a synthetic corpus, for equal budgets and for the scaling curve: the first text of
every document, then the second of each, until there are enough tokens. So a smaller subset is part
of a larger one, and is about all documents alike.
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Document, fingerprint, open_corpus, read_documents, write_corpus
from sbp_jax.data.tokenizer import Tokenizer


def write_subset(
    experiment: Experiment, corpus: str, tokens: int, tokenizer: Tokenizer, output: Path
) -> dict[str, Any]:
    """All of the corpus where it has fewer tokens; its manifest says how many there are."""
    whole = open_corpus(corpus, experiment)
    inputs = {"subset_of": fingerprint(whole.fingerprint, tokens, tokenizer.fingerprint)}
    if files.has_manifest(output):
        manifest = files.read_manifest(output)
        if manifest.get("subset_of") == inputs["subset_of"]:
            return manifest
    extras: dict[str, Any] = {}

    def first() -> Iterator[Document]:
        there = 0
        for document in in_turns(read_documents(whole, "stop")):
            yield document
            there += len(tokenizer.encode([document.text])[0]) + 1  # and the end of the text
            extras.update(inputs, tokens=there)
            if there >= tokens:
                return

    return write_corpus(first(), output, extras=extras)


def in_turns(documents: Iterator[Document]) -> Iterator[Document]:
    """A text of each source document, then another of each."""
    by_source: defaultdict[str, list[Document]] = defaultdict(list)
    for document in documents:
        by_source[json.loads(document.meta).get("document", document.id)].append(document)
    turns = itertools.zip_longest(*by_source.values())
    return (document for turn in turns for document in turn if document is not None)
