"""The toy world's niche: what the general part never says, and what is asked of the rest."""

import json

import pytest

from entigraph.arms.niche import BREAK, choose_niche, general_questions, questions, read_facts
from entigraph.arms.subsets import in_turns
from sbp_jax.config import ToyWorldConfig
from sbp_jax.data.corpus import Document
from sbp_jax.errors import UserError

CONFIG = ToyWorldConfig(concepts=60)


@pytest.fixture(scope="module")
def niche():
    return choose_niche(CONFIG, 0.25, 3)


@pytest.fixture(scope="module")
def library(niche):
    return niche.library()


def test_a_quarter_of_each_kind_is_niche(niche):
    kinds = {c.name: c.kind for c in niche.world.concepts}
    for kind in set(kinds.values()):
        size = sum(k == kind for k in kinds.values())
        chosen = sum(kinds[name] == kind for name in niche.names)
        assert chosen == max(4, round(size / 4))


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_general_documents_never_name_a_niche_concept(niche, split):
    documents = list(niche.general(split, 100))
    assert len(documents) == 100
    for document in documents:
        lower = document.text.lower()  # a sentence may begin with a name in lower case
        assert not [name for name in niche.names if name.lower() in lower], document.text
        assert len(document.text.split(BREAK)) == 3


def test_the_library_has_a_dossier_of_each_niche_concept_and_nothing_in_it_is_wrong(niche, library):
    assert {text.title for text in library} == niche.names
    for text in library:
        assert all(text.title in part for part in text.text.split(BREAK))
        assert niche.world.all_true(text.text.replace(BREAK, " ")) == 1
        for (subject, attribute), value in read_facts(niche.world, text.text).items():
            assert niche.true(subject, attribute, value)


def test_every_question_is_answered_by_its_dossier_and_by_one_choice_alone(niche, library):
    articles = questions(niche.world, library)
    asked = [(article, q) for article in articles for q in article.questions]
    assert len(asked) > 5 * len(library)
    assert len({q.id for _, q in asked}) == len(asked)
    stated = {text.id: read_facts(niche.world, text.text) for text in library}
    everywhere = [fact for facts in stated.values() for fact in facts.items()]
    for article, q in asked:
        name, attribute = article.text.title, q.id.rpartition("/")[2]
        truth = niche.world.concepts[niche.world.by_name[name]].attributes[attribute]
        assert q.options[q.gold] == truth == stated[article.text.id][name, attribute]
        assert len(set(q.options)) == 4 and q.options.count(truth) == 1
        said = {value for (who, what), value in everywhere if (who, what) == (name, attribute)}
        assert said == {truth}, "no other dossier says otherwise"
        # The question is a sentence of the world, whichever choice ends it.
        for option in q.options:
            (fact,) = niche.world.parse(f"{q.text} {option}.").facts
            assert fact == (name, attribute, option)


def test_wrong_choices_are_what_the_library_says_of_others(niche, library):
    stated = [read_facts(niche.world, text.text) for text in library]
    said = {(a, value) for facts in stated for (_, a), value in facts.items()}
    often = 0
    for article in questions(niche.world, library):
        for q in article.questions:
            attribute = q.id.rpartition("/")[2]
            others = {v for a, v in said if a == attribute} - {
                q.options[q.gold],
                article.text.title,
            }
            if len(others) >= 3:  # else it is too small for that
                often += 1
                assert {(attribute, option) for option in q.options} <= said
    assert often > 50


def test_positions_of_answers_are_even(niche, library):
    golds = [q.gold for article in questions(niche.world, library) for q in article.questions]
    for place in range(4):
        assert 0.15 < golds.count(place) / len(golds) < 0.35


def test_general_questions_name_no_niche_concept(niche):
    articles = general_questions(niche, 100)
    assert sum(len(article.questions) for article in articles) == 100
    for article in articles:
        for q in article.questions:
            told = {article.text.title, *q.options}
            assert niche.names.isdisjoint(told)
            value = niche.world.concepts[niche.world.by_name[article.text.title]].attributes[
                q.id.rpartition("/")[2]
            ]
            assert q.options[q.gold] == value


def test_a_stream_too_short_for_the_library_is_a_users_mistake():
    small = ToyWorldConfig(concepts=60, fresh_documents=50)
    with pytest.raises(UserError, match="raise config.toyworld.fresh_documents=50"):
        choose_niche(small, 0.25, 3).library()


def test_a_beginning_of_a_corpus_has_as_many_texts_of_each_document():
    documents = [
        Document(f"{source}{number}", "x", meta=json.dumps({"document": source}))
        for source, count in (("a", 5), ("b", 1), ("c", 3))
        for number in range(count)
    ]
    order = [document.id for document in in_turns(iter(documents))]
    assert order == ["a0", "b0", "c0", "a1", "c1", "a2", "c2", "a3", "a4"]
