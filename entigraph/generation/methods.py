"""What is asked of each document, by method: one dictionary, and the order of the requests.

The order depends on the seed, the document's id and how many entities it has, on nothing else: not
on the engine, nor on how far anybody wants to go in it. A longer run begins like a shorter one.
"""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from entigraph.generation.entities import mention
from entigraph.generation.windows import shown
from entigraph.wording import Wording
from sbp_jax.data.corpus import Document
from sbp_jax.inference.bulk.job import Ask
from sbp_jax.inference.engine import Sampling

SHUFFLED = 1_000_000  # combinations that are listed to be shuffled; of more, some are drawn


class Item(NamedTuple):
    """One text: its prompt, and what of the document it is about."""

    prompt: str
    entities: tuple[int, ...] = ()  # numbers in the document's list
    window: int = 0
    sample: int = 0


@dataclass(frozen=True)
class Method:
    prompts: tuple[str, ...]
    by_entities: bool = False
    needs_engine: bool = True


METHODS: Mapping[str, Method] = {
    "entigraph": Method(("pair", "triple"), by_entities=True),
    "rephrase_easy": Method(("rephrase_easy",)),
    "rephrase_medium": Method(("rephrase_medium",)),
    "rephrase_hard": Method(("rephrase_hard",)),
    "qa": Method(("qa",)),
    "extractive": Method(("pair", "triple"), by_entities=True, needs_engine=False),
}


def combinations(count: int, size: int, name: str) -> Iterator[tuple[int, ...]]:
    """All of so many numbers out of `count`, each once, in an order that the name draws."""
    draw = random.Random(name)
    total = math.comb(count, size)
    if total <= SHUFFLED:
        every = list(itertools.combinations(range(count), size))
        draw.shuffle(every)
        yield from every
        return
    seen: set[tuple[int, ...]] = set()
    while len(seen) < total:
        some = tuple(sorted(draw.sample(range(count), size)))
        if some not in seen:
            seen.add(some)
            yield some


def items(method: Method, document: str, entities: int, windows: int, seed: int) -> Iterator[Item]:
    """Pairs, then triples, of all entities; or each window again and again, without an end."""
    if not method.by_entities:
        for sample in itertools.count():
            for window in range(windows):
                yield Item(method.prompts[0], (), window, sample)
    for prompt, size in (("pair", 2), ("triple", 3)):
        for some in combinations(entities, size, f"{seed} {document} {prompt}"):
            yield Item(prompt, some)


def available(method: Method, entities: int, windows: int, triples: int, samples: int) -> int:
    """How many items there are of a document, within the config's limits."""
    if not method.by_entities:
        return windows * samples
    return math.comb(entities, 2) + min(triples, math.comb(entities, 3))


class Parts(NamedTuple):
    """What a document of a job holds: its text is in it once."""

    heading: str
    windows: list[str]
    entities: list[str]

    def document(self, id: str) -> Document:
        return Document(id, "".join(self.windows), "", json.dumps(self._asdict()))

    @classmethod
    def of(cls, document: Document) -> "Parts":
        return cls(**json.loads(document.meta))


@dataclass(frozen=True)
class Entities:
    """Requests for the entities of each window."""

    wording: Wording
    sampling: Sampling
    prompts = ("entities",)

    def __call__(self, document: Document) -> Iterator[Ask]:
        parts = Parts.of(document)
        for number, window in enumerate(parts.windows):
            prompt = self.wording.prompt("entities", parts.heading, window)
            yield {"window": number}, prompt, self.sampling

    def count(self, document: Document) -> int:
        return len(Parts.of(document).windows)


@dataclass(frozen=True)
class Texts:
    """Requests for the first so many texts of each document."""

    method: Method
    wording: Wording
    sampling: Sampling
    counts: Mapping[str, int]
    seed: int

    def __call__(self, document: Document) -> Iterator[Ask]:
        parts = Parts.of(document)
        size = len(parts.entities), len(parts.windows)
        every = items(self.method, document.id, *size, self.seed)
        places = _places(parts)
        for number, item in enumerate(itertools.islice(every, self.count(document))):
            text = parts.windows[item.window]
            entities = [parts.entities[i] for i in item.entities]
            if item.entities:
                text = shown(parts.windows, _of(item.entities, places))
            prompt = self.wording.prompt(item.prompt, parts.heading, text, entities)
            about = {"prompt": item.prompt, "entities": entities, "number": number}
            yield about, prompt, self.sampling

    @property
    def prompts(self) -> tuple[str, ...]:
        return self.method.prompts

    def count(self, document: Document) -> int:
        return self.counts.get(document.id, 0)


def _places(parts: Parts) -> list[dict[int, int]]:
    """Of each entity, the windows that name it, and where they first do."""
    found = []
    for entity in parts.entities:
        firsts = ((number, mention(text, entity)) for number, text in enumerate(parts.windows))
        found.append({number: first for number, first in firsts if first >= 0})
    return found


def _of(entities: Sequence[int], places: list[dict[int, int]]) -> list[tuple[int, int]]:
    """Places of all entities in one window, if one names all that any window names; else those
    where each is named first.
    """
    named = [places[i] for i in entities if places[i]]
    common = set.intersection(*map(set, named)) if named else set()
    window = min(common, default=None)
    if window is not None:
        return [(window, place[window]) for place in named]
    return [next(iter(place.items())) for place in named]
