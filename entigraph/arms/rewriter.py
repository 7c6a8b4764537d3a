"""What stands in for a language model where there is none: an engine that knows the toy world's
grammar and wordings, but of its facts only those that the document before it states.

It does what EntiGraph asks of a model. A document's entities are all that its facts are about,
names and values alike. Of several of them it writes what the document says of each, in other words
and in another order. Unlike a language model it makes no mistakes. Requests are those of the layout
`json` (wording.py).
"""

import functools
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from entigraph.arms.niche import BREAK
from entigraph.generation.entities import key
from entigraph.generation.generator import Generator, counter
from sbp_jax import files
from sbp_jax.data.tokenizer import Tokenizer
from sbp_jax.data.toyworld import Fact, World
from sbp_jax.data.toyworld_wording import ATTRIBUTES, DAYS, GENRES, PENFRIENDS, write_sentence
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import Completion, Prompt, Request

NAME = "toy world rewriter"
NOTE = (
    "The rewriter stands in for a language model: it knows the grammar of the toy world, not the "
    "answers. Of its facts it has those that the library states."
)
VERSION = 1  # of what it writes
FEWEST, MOST = 3, 5  # facts in a text, as in the world's own, where there are as many


def rewriter(world: World, tokenizer: Tokenizer) -> Generator:
    count = counter(tokenizer)
    engine = Rewriter(world, count, tokenizer.fingerprint)
    return Generator(NAME, engine.fingerprint, lambda: engine, "json", count)


class Rewriter:
    tokenizer = None

    def __init__(self, world: World, count: Callable[[str], int], counted_by: str = ""):
        self._world, self._count = world, count
        self._stated = functools.cache(functools.partial(stated, world))
        told = f"rewriter {VERSION} {counted_by} {world.config}"
        self.fingerprint = files.sha256(told.encode())

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            assert isinstance(request.prompt, str)
            text = self._answer(json.loads(request.prompt), random.Random(request.seed))
            tokens = self.prompt_tokens(request.prompt)
            yield Completion(request.id, text, "stop", tokens, self._count(text))

    def _answer(self, asked: dict[str, Any], draw: random.Random) -> str:
        facts = self._stated(asked["text"])
        if asked["ask"] == "entities":
            names = [*(fact.subject for fact in facts), *(fact.value for fact in facts)]
            summary = f"About {asked['heading']}."
            return json.dumps({"summary": summary, "entities": list(dict.fromkeys(names))})
        if asked["ask"] in ("pair", "triple"):
            return write(self._world, chosen(facts, asked["entities"], draw), draw)
        if asked["ask"].startswith("rephrase"):
            parts = map(self._stated, asked["text"].split(BREAK))
            return BREAK.join(write(self._world, part, draw) for part in parts if part)
        raise UserError(f"the toy world's rewriter cannot do {asked['ask']}; take another method")

    def prompt_tokens(self, prompt: Prompt) -> int:
        """None: nothing reads them."""
        return 0

    def cost(self, prompt_tokens: int, new_tokens: int) -> float:
        return 0.0

    def close(self) -> None:
        pass


def stated(world: World, dossier: str) -> list[Fact]:
    """What a dossier says of those whose full names it gives, each of its texts read by itself."""
    parsed = (world.parse(part).facts for part in dossier.split(BREAK))
    return list(dict.fromkeys(f for facts in parsed for f in facts if f.subject in world.by_name))


def chosen(facts: Sequence[Fact], entities: Sequence[str], draw: random.Random) -> list[Fact]:
    """What is said of the entities; where that is little, more of the same subjects."""
    order = draw.sample(facts, len(facts))
    wanted = [key(entity) for entity in entities]
    bearing = [[f for f in order if k in (key(f.subject), key(f.value))] for k in wanted]
    # A fact of each entity in turn, so that none is crowded out by one of which more is known.
    turns = itertools.chain.from_iterable(itertools.zip_longest(*bearing))
    found = list(dict.fromkeys(fact for fact in turns if fact))[: draw.randint(FEWEST, MOST)]
    subjects = {fact.subject for fact in found}
    more = [f for f in order if f.subject in subjects and f not in found]
    return found + more[: max(0, FEWEST - len(found))]


def write(world: World, facts: Sequence[Fact], draw: random.Random) -> str:
    """A text in the world's own manner, subject by subject, each with its full name first."""
    genre = GENRES[draw.choice(sorted(GENRES))]
    fill = {"day": draw.choice(DAYS), "penfriend": draw.choice(PENFRIENDS)}
    sentences = [draw.choice(genre.openers).format(**fill)]
    groups: dict[str, list[Fact]] = {}
    for fact in draw.sample(facts, len(facts)):
        groups.setdefault(fact.subject, []).append(fact)
    for subject, group in groups.items():
        concept = world.concepts[world.by_name[subject]]
        full, short = ((name, name + "'s") for name in (concept.name, concept.short))
        for number, fact in enumerate(group):
            called = draw.choice([full, full, short, concept.pronouns]) if number else full
            attribute = ATTRIBUTES[fact.attribute]
            if genre.question:
                sentences.append(genre.question.format(label=attribute.label))
            template = draw.choice(attribute.templates)
            sentences.append(write_sentence(draw.choice(genre.leads), template, called, fact.value))
    return " ".join([*sentences, draw.choice(genre.closers).format(**fill)])
