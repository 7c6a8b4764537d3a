"""What the toy world knows for certain: whether d2 is about d1's concept, and whether its facts are
true; and questions with known answers for a judge that knows nothing of this world.
"""

import dataclasses
import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from sbp_jax.config import ToyWorldConfig
from sbp_jax.data.toyworld import World
from sbp_jax.data.toyworld_wording import ATTRIBUTES, upper_first, write_sentence

BEYOND = 1_000_000_000  # documents of `fresh` from here on are in no corpus


class Grade(NamedTuple):
    accuracy: float  # share of its facts that are true; nan where it states none
    all_true: float  # P(all of them are)
    sentences: int
    unparsed: int  # that no template explains


class Question(NamedTuple):
    name: str
    d1: str
    d2: str
    right: bool


def concept_of(world: World, document_id: str, text: str) -> int | None:
    """The concept of a document of this world, known by its id and its text; None of any other."""
    form = re.fullmatch(r"toyworld/(train|held_out|fresh)/(\d+)", document_id)
    if not form:
        return None
    document, concept, _ = world.document(form[1], int(form[2]))
    return concept if document.text == text else None


def grade(world: World, text: str) -> Grade:
    sentences = len(re.split(r"(?<=[.?!])\s+", text.strip()))
    unparsed = len(world.parse(text).unparsed)
    return Grade(world.fact_accuracy(text), world.all_true(text), sentences, unparsed)


def subject_kept(world: World, concept: int, text: str) -> float:
    """P(the text is about this concept); 0 where it is about none."""
    if world.parse(text).subject is None:
        return 0.0
    return float(world.posterior(text)[concept])


def calibration(config: ToyWorldConfig, count: int, seed: int) -> Iterator[Question]:
    """For each prompt `count` questions, every second of them to be answered with yes.

    What they are about is named, and the source of `factual` states all that is true of it: the
    texts alone settle the answers.
    """
    world = World(dataclasses.replace(config, noise=0.0, ambiguous=0.0))
    draw = random.Random(f"{seed} calibration")
    texts = _texts(world, draw)
    for number in range(count):
        right = number % 2 == 0
        concept, text = next(texts)
        wrong = None if right else corrupted(world, text, draw)
        while not (right or wrong):
            concept, text = next(texts)
            wrong = corrupted(world, text, draw)
        yield Question("factual", _all_facts(world, concept), wrong or text, right)
    for number in range(count):
        right = number % 2 == 0
        concept, d1 = next(texts)
        kind = world.concepts[concept].kind
        while True:
            other, d2 = next(texts)
            alike = world.concepts[other].kind == kind
            if d1 != d2 and alike and (other == concept) == right:
                break
        yield Question("related", d1, d2, right)


def corrupted(world: World, text: str, draw: random.Random) -> str | None:
    """The text with one of its values changed into a wrong one; None where that cannot be done."""
    facts = list(world.parse(text).facts)
    draw.shuffle(facts)
    for fact in facts:
        subject = world.by_name.get(fact.subject)
        places = [v for v in {fact.value, upper_first(fact.value)} if text.count(v) == 1]
        if subject is None or len(places) != 1:
            continue
        true = {world.concepts[subject].attributes[fact.attribute], fact.subject}
        others = [v for v in world.values[fact.attribute] if v not in true]
        other = others[draw.randrange(len(others))]
        if places[0] != fact.value:
            other = upper_first(other)
        changed = text.replace(places[0], other)
        if world.all_true(changed) == 0 and not world.parse(changed).unparsed:
            return changed
    return None


def _texts(world: World, draw: random.Random) -> Iterator[tuple[int, str]]:
    """Documents of one concept each: nothing beside it is mentioned."""
    index = BEYOND + draw.randrange(BEYOND)
    while True:
        index += 1
        document, concept, facts = world.document("fresh", index)
        if {fact.subject for fact in facts} == {world.concepts[concept].name}:
            yield concept, document.text


def _all_facts(world: World, concept: int) -> str:
    c = world.concepts[concept]
    called = (c.name, c.name + "'s")
    return " ".join(
        write_sentence("", ATTRIBUTES[a].templates[0], called, value)
        for a, value in c.attributes.items()
    )
