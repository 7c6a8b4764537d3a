import dataclasses
import json
import pickle
import re
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbp_jax.config import ToyWorldConfig
from sbp_jax.data.toyworld import SPLITS, Fact, World, corpus
from sbp_jax.data.toyworld_wording import ATTRIBUTES, KINDS, write_sentence
from sbp_jax.errors import UserError

WORLD = World(ToyWorldConfig())

small_worlds = st.builds(
    ToyWorldConfig,
    concepts=st.integers(40, 200),
    zipf=st.floats(0, 2),
    noise=st.floats(0, 0.9),
    ambiguous=st.floats(0, 1),
    seed=st.integers(-5, 10**9),
)


@cache
def documents(split="train", count=3000, world=WORLD):
    return [world.document(split, i) for i in range(count)]


def texts(split="train", count=3000, world=WORLD):
    return [document.text for document, _, _ in documents(split, count, world)]


def test_a_document_depends_only_on_seed_split_and_index():
    twin = World(ToyWorldConfig())
    for i in (2999, 0, 17, 1_000_000_000):
        for split in SPLITS:
            assert twin.document(split, i) == WORLD.document(split, i)
    assert twin.concepts == WORLD.concepts


def test_another_process_makes_the_same_corpus_without_heavy_imports():
    code = (
        "import sys\n"
        "from sbp_jax.config import ToyWorldConfig\n"
        "from sbp_jax.data.toyworld import corpus\n"
        "print(corpus('train', ToyWorldConfig()).fingerprint)\n"
        "assert not {'torch', 'tensorflow', 'jax', 'datasets'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == corpus("train", ToyWorldConfig()).fingerprint


def test_splits_share_no_document():
    held_out = set(texts("held_out", 200))
    assert len(held_out) == 200
    assert not held_out & set(texts("train"))
    assert not held_out & set(texts("fresh", 5000))
    assert len(set(texts("train")) | set(texts("fresh", 5000))) > 7990  # short texts may coincide


def test_worlds_of_different_seeds_differ_and_one_seed_fixes_the_world():
    other = World(ToyWorldConfig(seed=1))
    assert not {c.name for c in other.concepts} & {c.name for c in WORLD.concepts}
    assert not set(texts(count=50)) & set(texts(count=50, world=other))
    more = World(ToyWorldConfig(documents=10, noise=0.5, ambiguous=1.0))
    assert more.concepts == WORLD.concepts


def test_documents_have_the_length_that_the_rows_are_made_for():
    words = [len(text.split()) for text in texts()]
    assert 40 < np.mean(words) < 60
    assert min(words) > 15 and np.quantile(words, 0.95) < 90


def test_concept_frequencies_follow_the_zipf_prior():
    prior = WORLD.prior()
    ranked = np.sort(prior)[::-1]
    np.testing.assert_allclose(prior.sum(), 1)
    np.testing.assert_allclose(ranked[0] / ranked, np.arange(1, 301) ** 0.7)
    counts = np.bincount([c for _, c, _ in documents("fresh", 20_000)], minlength=300)
    sigma = np.sqrt(20_000 * prior * (1 - prior))
    assert np.abs((counts - 20_000 * prior) / sigma).max() < 5
    kinds = [WORLD.concepts[i].kind for i in np.argsort(-prior)[:40]]
    assert set(kinds) == set(KINDS), "every kind has frequent concepts"


def test_relations_name_concepts_of_the_right_kind_and_short_names_are_shared():
    for concept in WORLD.concepts:
        assert concept.attributes.keys() == KINDS[concept.kind].attributes.keys()
        for attribute, target in concept.relations.items():
            assert WORLD.concepts[target].name == concept.attributes[attribute] != concept.name
            assert WORLD.concepts[target].kind == ATTRIBUTES[attribute].of
    names = [c.name for c in WORLD.concepts]
    shorts = [c.short for c in WORLD.concepts]
    assert len(set(names)) == len(names) == 300
    assert not set(shorts) & set(names)
    assert np.mean([shorts.count(s) > 1 for s in shorts]) > 0.9


def test_neighbours_resemble_each_other_more_than_strangers():
    people = [c for c in WORLD.concepts if c.kind == "person"]
    regions = [WORLD.concepts[c.relations["home"]].attributes["region"] for c in people]
    plain = [a for a in people[0].attributes if a not in people[0].relations]
    same = {True: [], False: []}
    for i, a in enumerate(people):
        for j, b in enumerate(people[:i]):
            alike = np.mean([a.attributes[x] == b.attributes[x] for x in plain])
            same[regions[i] == regions[j]].append(alike)
    assert np.mean(same[True]) > np.mean(same[False]) + 0.1


@settings(max_examples=40, deadline=None)
@given(small_worlds, st.sampled_from(list(SPLITS)), st.integers(0, 10**12))
def test_parse_gives_back_exactly_the_facts_of_any_document_of_any_world(config, split, start):
    world = World(config)
    for i in range(start, start + 40):
        document, _, facts = world.document(split, i)
        parse = world.parse(document.text)
        assert parse.facts == facts, document.text
        assert not parse.unparsed


def test_parse_gives_back_exactly_the_facts_of_thousands_of_documents():
    for document, concept, facts in documents():
        parse = WORLD.parse(document.text)
        assert parse.facts == facts, document.text
        assert not parse.unparsed
        assert parse.subject in (WORLD.concepts[concept].name, WORLD.concepts[concept].short, "")
        own = [f for f in facts if f.subject == parse.subject]
        assert len({f.attribute for f in own}) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_template_is_read_back_under_every_way_to_call_its_subject(kind):
    concept = next(c for c in WORLD.concepts if c.kind == kind)
    called = {KINDS[kind].unnamed: "", concept.short: concept.short, concept.name: concept.name}
    for attribute in KINDS[kind].attributes:
        for template in ATTRIBUTES[attribute].templates:
            for value in WORLD.values[attribute]:
                for lead in ("", "by the way, ", "A: ", "I hear that "):
                    for name, subject in called.items():
                        text = write_sentence(lead, template, (name, f"{name}'s"), value)
                        assert WORLD.parse(text).facts == (Fact(subject, attribute, value),), text
                    text = write_sentence(lead, template, concept.pronouns, value)
                    parse = WORLD.parse(text)
                    assert parse.facts == (Fact("", attribute, value),), text
                    assert parse.pronouns == {concept.pronouns[0]}


def test_the_wording_keeps_its_rules():
    templates = [t for a in ATTRIBUTES.values() for t in a.templates]
    assert len(templates) == len(set(templates))
    assert sum(len(kind.attributes) for kind in KINDS.values()) == len(ATTRIBUTES)
    for attribute in ATTRIBUTES.values():
        assert attribute.templates[0].endswith(" {v}")
        assert len(attribute.templates) >= 3
        assert bool(attribute.of) != bool(attribute.values)
        assert len(set(attribute.values)) == len(attribute.values)
    for template in templates:
        assert sorted(re.findall(r"\{(.)\}", template))[0] in "ps"
        assert len(re.findall(r"\{.\}", template)) == 2 and "{v}" in template
        assert "." not in template and template[0] == template[0].lower()
    assert sum(kind.share for kind in KINDS.values()) == 1


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2000), st.floats(0, 1))
def test_a_truncated_document_states_its_first_facts_and_nothing_else(index, share):
    document, _, facts = WORLD.document("fresh", index)
    parse = WORLD.parse(document.text[: int(len(document.text) * share)])
    assert parse.facts == facts[: len(parse.facts)]
    assert len(parse.unparsed) <= 1


def test_sentences_of_nobody_or_about_nothing_known_are_unparsed():
    person = next(c for c in WORLD.concepts if c.kind == "person")
    text = (
        f"{person.name} lives in Atlantis. Nobody Whatever keeps a toad at home. Lorem ipsum. "
        f"{person.name} keeps a toad at home. {person.name} keeps a toad at"
    )
    parse = WORLD.parse(text)
    assert parse.facts == (Fact(person.name, "pet", "a toad"),)
    assert len(parse.unparsed) == 4
    for nonsense in ("", "   ", "...", "?", "{s}", "She.", "'s pet is a toad."):
        assert WORLD.parse(nonsense).facts == ()
        np.testing.assert_array_equal(WORLD.posterior(nonsense), WORLD.prior())
        assert np.isnan(WORLD.fact_accuracy(nonsense))


@pytest.mark.parametrize(
    "config",
    [
        ToyWorldConfig(ambiguous=1.0),
        ToyWorldConfig(ambiguous=1.0, concepts=80, noise=0.25, seed=3),
        ToyWorldConfig(ambiguous=0.5, concepts=1000, noise=0.0, zipf=1.2, seed=4),
    ],
)
def test_the_posterior_is_calibrated(config):
    world = World(config)
    p, hit, surprise, entropy = [], [], [], []
    for i in range(2500):
        document, concept, _ = world.document("fresh", i)
        posterior = world.posterior(document.text)
        np.testing.assert_allclose(posterior.sum(), 1)
        assert posterior.min() >= 0
        p.append(posterior)
        hit.append(np.arange(len(posterior)) == concept)
        surprise.append(-np.log(posterior[concept]))
        entropy.append(-np.sum(posterior * np.log(np.maximum(posterior, 1e-300))))
    p, hit = np.concatenate(p), np.concatenate(hit)
    edges = (1e-5, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.1)
    for low, high in zip(edges, edges[1:], strict=False):
        chosen = (p >= low) & (p < high)
        sigma = np.sqrt((p[chosen] * (1 - p[chosen])).sum()) + 1
        assert abs(hit[chosen].sum() - p[chosen].sum()) < 4 * sigma, (low, high)
    # The surprise at the truth is what the posterior expects it to be.
    error = np.std(np.subtract(surprise, entropy)) / np.sqrt(len(surprise))
    assert abs(np.mean(surprise) - np.mean(entropy)) < 4 * error


def test_a_full_name_settles_who_a_document_is_about_and_its_absence_does_not():
    sure, unsure = [], []
    for document, concept, facts in documents():
        named = facts[0].subject == WORLD.concepts[concept].name
        (sure if named else unsure).append(WORLD.posterior(document.text)[concept])
    assert np.mean([p == 1 for p in sure]) == 1
    assert 0.27 < len(unsure) / 3000 < 0.33
    assert np.mean([p < 0.9 for p in unsure]) > 0.05


def test_the_posterior_of_one_statement_is_bayes_rule():
    weight = [
        (c.kind == "person")
        * (c.pronouns[0] == "she")
        * (0.97 if c.attributes.get("pet") == "a toad" else 0.03 / 11)
        for c in WORLD.concepts
    ] * WORLD.prior()
    posterior = WORLD.posterior("Her pet is a toad.")
    np.testing.assert_allclose(posterior, weight / weight.sum(), atol=1e-10)


def test_short_names_and_pronouns_are_evidence():
    for document, _, facts in documents():
        parse, posterior = WORLD.parse(document.text), WORLD.posterior(document.text)
        shorts = np.array([c.short for c in WORLD.concepts])
        pronouns = np.array([c.pronouns[0] for c in WORLD.concepts])
        if facts[0].subject in shorts:
            assert posterior[shorts != facts[0].subject].sum() < 1e-6
        for pronoun in parse.pronouns:
            assert posterior[pronouns != pronoun].sum() < 1e-6


@settings(max_examples=10, deadline=None)
@given(st.floats(0, 0.9))
def test_facts_are_wrong_as_often_as_the_noise_says(noise):
    world = World(dataclasses.replace(WORLD.config, noise=noise))
    wrong = []
    for i in range(400):
        _, concept, facts = world.document("fresh", i)
        for fact in facts:
            about = world.concepts[world.by_name.get(fact.subject, concept)]
            wrong.append(about.attributes[fact.attribute] != fact.value)
    sigma = np.sqrt(noise * (1 - noise) / len(wrong))
    assert abs(np.mean(wrong) - noise) <= 5 * sigma


def test_fact_accuracy_is_the_share_of_true_statements():
    person = next(c for c in WORLD.concepts if c.kind == "person")
    pet = person.attributes["pet"]
    other = next(v for v in WORLD.values["pet"] if v != pet)
    for value, right in ((pet, 1.0), (other, 0.0)):
        assert WORLD.fact_accuracy(f"{person.name}'s pet is {value}.") == right
    both = f"{person.name}'s pet is {pet}. {person.name} keeps {other} at home."
    assert WORLD.fact_accuracy(both) == 0.5
    assert WORLD.fact_accuracy(f"{person.name} was established in 1702.") == 0.0
    perfect = World(dataclasses.replace(WORLD.config, noise=0.0))
    np.testing.assert_allclose([perfect.fact_accuracy(t) for t in texts(world=perfect)], 1.0)
    np.testing.assert_allclose(np.mean([WORLD.fact_accuracy(t) for t in texts()]), 0.97, atol=0.01)


def test_questions_have_exactly_one_right_answer():
    questions = WORLD.questions(500, seed=1)
    assert len({(q.concept, q.attribute) for q in questions}) == 500
    for q in questions:
        truth = WORLD.concepts[q.concept].attributes[q.attribute]
        assert len(set(q.choices)) == 4
        assert [i for i, c in enumerate(q.choices) if c == truth] == [q.answer]
        assert set(q.choices) <= set(WORLD.values[q.attribute])
        right = [WORLD.fact_accuracy(f"{q.prompt} {choice}.") for choice in q.choices]
        assert right == [float(i == q.answer) for i in range(4)], q
    answers = np.bincount([q.answer for q in questions], minlength=4)
    assert answers.min() > 90


def test_questions_follow_their_seed_and_cannot_outnumber_the_facts():
    assert WORLD.questions(50, seed=1) == WORLD.questions(50, seed=1) != WORLD.questions(50, seed=2)
    facts = sum(len(c.attributes) for c in WORLD.concepts)
    assert len(WORLD.questions(facts)) == facts
    with pytest.raises(UserError, match=str(facts)):
        WORLD.questions(facts + 1)


def test_the_corpus_reads_in_picklable_shards_of_ten_thousand():
    config = ToyWorldConfig(fresh_documents=20_500)
    fresh = corpus("fresh", config)
    assert len(fresh.shards) == 3 and len({s.name for s in fresh.shards}) == 3
    rows = list(pickle.loads(pickle.dumps(fresh.shards[2])).read(pytest.fail))
    world = World(config)
    assert rows == [world.document("fresh", i)[0] for i in range(20_000, 20_500)]
    meta = json.loads(rows[0].meta)
    _, concept, facts = world.document("fresh", 20_000)
    assert meta["concept"] == world.concepts[concept].name
    assert [Fact(*f) for f in meta["facts"]] == list(facts)
    assert {row.source for row in rows} == {"toyworld"} and len({row.id for row in rows}) == 500
    for split, count in (("train", 3000), ("held_out", 200)):
        (shard,) = corpus(split, config).shards
        assert sum(1 for _ in shard.read(pytest.fail)) == count


def test_the_fingerprint_tells_splits_and_parameters_apart():
    configs = [ToyWorldConfig(), ToyWorldConfig(seed=1), ToyWorldConfig(noise=0.1)]
    prints = [corpus(split, config).fingerprint for split in SPLITS for config in configs]
    assert len(set(prints)) == 9
    assert corpus("train", ToyWorldConfig()).fingerprint == prints[0]


def test_unknown_splits_and_empty_corpora_are_refused():
    with pytest.raises(UserError, match="'test'.*train, held_out, fresh"):
        corpus("test", WORLD.config)
    with pytest.raises(UserError, match="'test'"):
        WORLD.document("test", 0)
    with pytest.raises(UserError, match="held_out_documents is 0"):
        corpus("held_out", ToyWorldConfig(held_out_documents=0))
