"""Names of entities, one for each whatever the spelling; windows; the order of what is asked."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entigraph.generation.entities import key, listed, mention, merged, names
from entigraph.generation.extractive import found_entities
from entigraph.generation.methods import METHODS, Item, available, combinations, items
from entigraph.generation.windows import GAP, shown, windows

WORDS = ["Ada", "Bank", "Cape", "delta", "Élan", "of", "X9", "naïve"]
NAMES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
LISTS = st.lists(st.lists(NAMES, max_size=6), max_size=4)


def respelt(name):
    forms = [
        name, name.upper(), name.lower(), f"the {name}", f"The  {name} ", f'"{name}"', f"{name}'s",
        f"a {name}", name.replace(" ", "-"), f"{name}.",
    ]  # fmt: skip
    return st.sampled_from(forms)


@given(NAMES.flatmap(lambda name: st.tuples(st.just(name), respelt(name))))
def test_case_articles_quotes_and_possessives_make_no_other_entity(both):
    name, spelling = both
    assert key(name) == key(spelling)
    assert merged([[name], [spelling]]) == [name]
    assert len(merged([[spelling, name]])) == 1


@given(LISTS)
def test_merging_leaves_each_key_once_in_its_first_spelling_and_changes_nothing_more(lists):
    once = merged(lists)
    every = list(itertools.chain(*lists))
    assert len({key(name) for name in once}) == len(once)
    assert merged([once]) == once
    assert all(name in every for name in once)
    firsts = [next(i for i, n in enumerate(every) if key(n) == key(name)) for name in once]
    assert firsts == sorted(firsts)
    assert {key(name) for name in every} >= {key(name) for name in once}


@pytest.mark.parametrize(
    "given_names, expected",
    [
        (["Federal Bank (the Fed)", "Fed", "the federal bank"], ["Federal Bank (the Fed)"]),
        (["Fed", "Federal Reserve", "Federal Reserve (Fed)"], ["Fed"]),
        (["International Business Machines", "IBM"], ["International Business Machines"]),
        (["IBM", "International Business Machines"], ["IBM"]),
        (["Mr. Smith", "Mrs. Smith", "Smith"], ["Mr. Smith", "Mrs. Smith", "Smith"]),
        (["The Hague", "hague", "The  Hague's"], ["The Hague"]),
        (["Jean Luc", "Jean-Luc", "JEAN–LUC"], ["Jean Luc"]),
        (["", "  ", "the", "...", "a sentence of " + "many words " * 20, "ok"], ["the", "ok"]),
        (["An", "Thé", "the"], ["An", "Thé", "the"]),
        (["New York", "NY", "Ny"], ["New York", "NY"]),
        (["ＩＢＭ", "ibm"], ["ＩＢＭ"]),
    ],
)  # fmt: skip
def test_what_is_one_entity(given_names, expected):
    assert merged([given_names]) == expected


def test_a_mention_is_a_whole_word_by_any_name():
    assert names("Marie Curie (also known as Madame Curie)") == ["Marie Curie", "Madame Curie"]
    assert mention("So madame  curie's radium", "Marie Curie (Madame Curie)") == 3
    assert mention("the lamps", "the Lamp") == -1
    assert mention("A lamp.", "The Lamp") == 2
    assert mention("anything", "(") == -1


def test_answers_that_are_no_list_of_names_are_refused_and_fences_are_not():
    good = '{"summary": "s", "entities": ["a"]}'
    assert listed(good, True) == listed(f"Sure:\n```json\n{good}\n```", True) == ["a"]
    for bad in ("", "[]", '{"entities": "a"}', '{"entities": [1]}', good[:-3], "null", '{"a": 1}'):
        with pytest.raises(ValueError):
            listed(bad, False)


@given(
    st.text(alphabet="ab .\n語!", max_size=300), st.integers(1, 60), st.sampled_from([len, None])
)
def test_windows_leave_nothing_out_and_none_is_too_long(text, limit, count):
    count = count or (lambda part: len(part.encode()))
    parts = windows(text, limit, count)
    assert "".join(parts) == text
    assert all(count(part) <= limit or len(part) == 1 for part in parts)
    if count(text) <= limit:
        assert parts == [text]


def test_windows_are_cut_at_sentences_and_alike_in_size():
    text = "".join(f"This is sentence number {i}. " for i in range(100))
    parts = windows(text, 1000, len)
    assert len(parts) == 3 and all(part.rstrip().endswith(".") for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) < 200


def test_a_pair_of_two_windows_is_shown_a_piece_of_each():
    first, second = "x " * 200 + "Ada " + "y " * 200, "z " * 200 + "Bob " + "w " * 200
    both = shown([first, second], [(0, 400), (1, 400)])
    assert "Ada" in both and "Bob" in both and GAP in both
    assert len(both) <= max(len(first), len(second)) + len(GAP)
    assert shown([first, second], [(1, 3), (1, 9)]) == second
    assert shown([first, second], []) == first


@given(st.integers(2, 9), st.integers(0, 5))
def test_pairs_come_before_triples_each_once_in_an_order_of_the_seed(count, seed):
    every = list(items(METHODS["entigraph"], "a", count, 1, seed))
    pairs, triples = math.comb(count, 2), math.comb(count, 3)
    assert [item.prompt for item in every] == ["pair"] * pairs + ["triple"] * triples
    assert len(set(every)) == len(every)
    assert all(sorted(set(item.entities)) == list(item.entities) for item in every)
    assert every == list(items(METHODS["entigraph"], "a", count, 1, seed))
    assert available(METHODS["entigraph"], count, 1, 4, 1) == pairs + min(4, triples)


def test_documents_and_seeds_have_orders_of_their_own():
    def order(*names):
        return list(items(METHODS["entigraph"], names[0], 9, 1, names[1]))

    assert order("a", 0) != order("b", 0) != order("a", 1)


def test_more_combinations_than_can_be_listed_are_drawn_without_repeats():
    some = list(itertools.islice(combinations(1_000, 3, "name"), 500))
    assert len(set(some)) == 500 and some[:50] == list(
        itertools.islice(combinations(1_000, 3, "name"), 50)
    )


def test_windows_are_rephrased_in_turn():
    every = itertools.islice(items(METHODS["qa"], "a", 0, 2, 0), 4)
    assert list(every) == [Item("qa", (), w, s) for s in (0, 1) for w in (0, 1)]


def test_entities_are_found_without_a_model():
    text = (
        "Elsewhere, Ada Lovelace met Charles Babbage in London. Ada wrote notes on the engine. "
        "The engine was never built. Notes on it survive. The Royal Society of London kept them."
    )
    found = found_entities(text)
    assert found[0] == "Ada Lovelace (Ada)"
    assert {"Charles Babbage", "Royal Society of London", "engine"} <= set(found)
    assert not {"Elsewhere", "The", "Notes", "Notes on"} & set(found)
    assert len(set(map(key, found))) == len(found)
    assert found_entities("") == [] and found_entities("so it is") == []


@given(st.text(alphabet="abcdefAB .'\n", max_size=200))
def test_what_is_found_in_a_text_stands_in_it(text):
    for name in merged([found_entities(text)]):
        assert mention(text, name) >= 0
