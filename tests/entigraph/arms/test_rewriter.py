"""The rewriter: in other words what a document says, and nothing else."""

import itertools
import json
import random

import pytest

from entigraph.arms.niche import BREAK, choose_niche, read_facts
from entigraph.arms.rewriter import Rewriter, chosen, stated
from entigraph.generation.entities import key
from entigraph.generation.methods import METHODS, Method, items
from sbp_jax.config import ToyWorldConfig
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import Request, Sampling


@pytest.fixture(scope="module")
def niche():
    return choose_niche(ToyWorldConfig(concepts=60), 0.25, 3)


@pytest.fixture(scope="module")
def library(niche):
    return niche.library()


@pytest.fixture(scope="module")
def engine(niche):
    return Rewriter(niche.world, len)


def ask(engine, what, text, entities=(), seed=0):
    prompt = json.dumps({"ask": what, "heading": "it", "text": text, "entities": list(entities)})
    (completion,) = engine.generate([Request("1", prompt, Sampling(), seed)])
    assert completion.finish_reason == "stop" and completion.new_tokens == len(completion.text)
    return completion.text


def test_entities_are_all_that_the_facts_are_about(engine, niche, library):
    for text in library:
        found = json.loads(ask(engine, "entities", text.text))["entities"]
        facts = read_facts(niche.world, text.text)
        assert set(found) >= {name for name, _ in facts} | set(facts.values())
        assert len(set(found)) == len(found)
        assert all(name.lower() in text.text.lower() for name in found)


def test_texts_of_pairs_and_triples_say_what_the_document_says_and_nothing_else(
    engine, niche, library
):
    method: Method = METHODS["entigraph"]
    for text in library[:6]:
        facts = set(stated(niche.world, text.text))
        entities = json.loads(ask(engine, "entities", text.text))["entities"]
        for item in itertools.islice(items(method, text.id, len(entities), 1, 0), 60):
            about = [entities[i] for i in item.entities]
            written = ask(engine, item.prompt, text.text, about)
            parsed = niche.world.parse(written)
            assert not parsed.unparsed and parsed.facts
            named = {key(name) for fact in parsed.facts for name in (fact.subject, fact.value)}
            assert {key(entity) for entity in about} <= named, "each of them is told of"
            # Where there are two subjects a pronoun or a short name is read as the first one's;
            # so each sentence that gives a full name is read by itself.
            for sentence in written.split(". "):
                for fact in niche.world.parse(sentence.rstrip(".") + ".").facts:
                    if fact.subject in niche.world.by_name:
                        assert fact in facts


def test_rephrasings_keep_what_stands_together_together(engine, niche, library):
    for text in library[:6]:
        written = ask(engine, "rephrase_medium", text.text)
        for old, new in zip(text.text.split(BREAK), written.split(BREAK), strict=True):
            assert old != new
            values = {fact.value for fact in stated(niche.world, old)}
            assert {fact.value for fact in niche.world.parse(new).facts} == values


def test_seeds_vary_the_wording_and_one_seed_is_one_text(engine, library):
    entities = json.loads(ask(engine, "entities", library[0].text))["entities"][:2]
    texts = [ask(engine, "pair", library[0].text, entities, seed) for seed in range(20)]
    assert len(set(texts)) == 20
    assert texts == [ask(engine, "pair", library[0].text, entities, seed) for seed in range(20)]


def test_it_has_seen_no_fact_but_the_documents(engine, niche, library):
    """Of two worlds that differ in all but the document, it makes the same text."""
    first = library[0]
    facts = stated(niche.world, first.text)
    picked = chosen(facts, [facts[0].subject], random.Random(0))
    assert set(picked) <= set(facts)
    changed = first.text.replace(facts[0].value, "deep water")
    assert facts[0].value not in ask(engine, "rephrase_medium", changed)


def test_what_it_cannot_do_is_refused(engine, library):
    with pytest.raises(UserError, match="cannot do qa"):
        ask(engine, "qa", library[0].text)
