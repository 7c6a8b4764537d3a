"""The toy world in two parts: general documents, and a niche library that they never mention.

A document is a dossier, several texts about one concept, so that a model of the general part has
learnt to read one text in the light of another. The library has a dossier for each niche concept
and nothing in it is wrong. The questions ask for what it states; their wrong choices are what it
says of other concepts, so that no choice stands out for being rare.
"""

import itertools
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from entigraph.evaluation.questions import Article, Question
from entigraph.library import Text
from sbp_jax.config import ToyWorldConfig
from sbp_jax.data.corpus import Document
from sbp_jax.data.toyworld import World
from sbp_jax.data.toyworld_wording import ATTRIBUTES, upper_first
from sbp_jax.errors import UserError

BREAK = "\n\n"  # between the texts of a dossier
CHOICES = 4


@dataclass(frozen=True)
class Niche:
    world: World
    texts: int  # in a dossier
    names: frozenset[str]  # of the niche concepts

    def general(self, split: str, count: int) -> Iterator[Document]:
        """Dossiers of other concepts in which no niche concept is named, the first of the split."""
        for number, (name, texts) in enumerate(self._dossiers(split, of_niche=False)):
            if number == count:
                return
            meta = json.dumps({"concept": name})
            yield Document(
                f"toyworld/{split}/dossier-{number}", BREAK.join(texts), "toyworld", meta
            )

    def library(self) -> list[Text]:
        """In the order of the concepts."""
        found: dict[str, str] = {}
        for name, texts in self._dossiers("fresh", of_niche=True):
            found.setdefault(name, BREAK.join(texts))
            if len(found) == len(self.names):
                break
        order = [concept.name for concept in self.world.concepts if concept.name in self.names]
        if missing := [name for name in order if name not in found]:
            raise UserError(
                f"the toy world has too few texts for a dossier of {missing[0]}; raise "
                f"config.toyworld.fresh_documents={self.world.config.fresh_documents}"
            )
        return [Text(f"niche/{n}", name, "", "", found[name]) for n, name in enumerate(order)]

    def _dossiers(self, split: str, *, of_niche: bool) -> Iterator[tuple[str, list[str]]]:
        """Concept and texts, as soon as there are enough of the concept's."""
        open_: defaultdict[str, list[str]] = defaultdict(list)
        for index in range(self.world.config.fresh_documents):
            document, concept, facts = self.world.document(split, index)
            name = self.world.concepts[concept].name
            named = {name, *(f.subject for f in facts), *(f.value for f in facts)}
            if of_niche:
                fits = name in self.names and facts[0].subject == name
                fits = fits and all(self.true(*fact) for fact in facts)
            else:
                fits = self.names.isdisjoint(named)
            if fits:
                open_[name].append(document.text)
                if len(open_[name]) == self.texts:
                    yield name, open_.pop(name)

    def true(self, subject: str, attribute: str, value: str) -> bool:
        concept = self.world.concepts[self.world.by_name[subject]]
        return concept.attributes.get(attribute) == value


def choose_niche(world: ToyWorldConfig, share: float, texts: int) -> Niche:
    """A share of each kind of concepts."""
    whole = World(world)
    by_kind: defaultdict[str, list[str]] = defaultdict(list)
    for concept in whole.concepts:
        by_kind[concept.kind].append(concept.name)
    names: set[str] = set()
    for kind, members in by_kind.items():
        draw = random.Random(f"niche/{world.seed}/{kind}")
        names |= set(draw.sample(members, max(CHOICES, round(share * len(members)))))
    return Niche(whole, texts, frozenset(names))


def read_facts(world: World, text: str) -> dict[tuple[str, str], str]:
    """(Full name, attribute) -> value: what a dossier states, each of its texts read by itself."""
    return {
        (fact.subject, fact.attribute): fact.value
        for part in text.split(BREAK)
        for fact in world.parse(part).facts
        if fact.subject in world.by_name
    }


def questions(world: World, library: Iterable[Text]) -> list[Article]:
    """One for each fact that a dossier states of its own concept."""
    library = list(library)
    stated = {text.id: read_facts(world, text.text) for text in library}
    said: defaultdict[str, list[str]] = defaultdict(list)  # values of an attribute
    for facts in stated.values():
        for (_, attribute), value in facts.items():
            if value not in said[attribute]:
                said[attribute].append(value)
    articles = []
    for text in library:
        asked = [
            _question(world, text, attribute, value, said[attribute])
            for (subject, attribute), value in stated[text.id].items()
            if subject == text.title
        ]
        articles.append(Article(text, tuple(asked)))
    return articles


def general_questions(niche: Niche, count: int) -> list[Article]:
    """About facts of other concepts, in which no niche concept is named, choices included."""
    world = niche.world
    facts = sum(len(concept.attributes) for concept in world.concepts)
    by_name: defaultdict[str, list[Question]] = defaultdict(list)
    asked = (
        (world.concepts[q.concept].name, q)
        for q in world.questions(facts)
        if niche.names.isdisjoint({world.concepts[q.concept].name, *q.choices})
    )
    for name, q in itertools.islice(asked, count):
        id = f"general/{name}/{q.attribute}"
        by_name[name].append(Question(id, q.prompt, q.choices, q.answer))
    return [
        Article(Text(f"general/{name}", name, "", "", ""), tuple(some))
        for name, some in by_name.items()
    ]


def _question(world: World, text: Text, attribute: str, value: str, said: list[str]) -> Question:
    draw = random.Random(f"question/{world.config.seed}/{text.title}/{attribute}")
    others = [v for v in said if v not in (value, text.title)]
    if len(others) < CHOICES - 1:  # a small library
        others = [v for v in world.values[attribute] if v not in (value, text.title)]
    options = [value, *draw.sample(others, CHOICES - 1)]
    draw.shuffle(options)
    asked = ATTRIBUTES[attribute].templates[0].removesuffix(" {v}")
    asked = upper_first(asked.format(s=text.title, p=text.title + "'s"))
    return Question(f"{text.id}/{attribute}", asked, tuple(options), options.index(value))
