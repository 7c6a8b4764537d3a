import ast
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research_env.bank import SEARCH, Bank
from research_env.outcome import Outcome, State
from research_env.researcher import mutator, sites
from research_env.researcher.interface import BASELINE, EXPLOIT, EXPLORE, FRESH, Proposal, Want
from research_env.researcher.mutator import Mutator

SOURCE = '''\
"""A script with 3 numbers in its words."""
import jax
import optax
from dataclasses import dataclass

LEARNING_RATE = 3e-4
BETAS = (0.9, 0.95)
seed = 17

@dataclass
class Config:
    width: int = 256
    activation: str = "gelu"
    decay: str = "pal"  # as it is compared with below
    tied: bool = True

def schedule(step, warm_up=100, *, floor=0.1):
    if Config.decay == "pal":
        return floor
    if Config.decay == "sage":
        return 1.0
    return step / warm_up

def loss(x):
    h = jax.nn.relu(x)
    print(f"loss {x:.3f}", 5)
    return h[0]

optimizer = optax.adamw(LEARNING_RATE, weight_decay=0.1)
table = {"eps": 1e-8}
'''


def by_name(source=SOURCE):
    return {site.name: site for site in sites.find("a.py", source)}


def test_what_can_be_edited_is_found_and_what_should_not_be_is_not():
    found = {(site.name, site.text) for site in sites.find("a.py", SOURCE)}
    assert found == {
        ("LEARNING_RATE", "3e-4"),
        ("BETAS", "0.9"),
        ("BETAS", "0.95"),
        ("width", "256"),
        ("activation", '"gelu"'),
        ("decay", '"pal"'),
        ("tied", "True"),
        ("warm_up", "100"),
        ("floor", "0.1"),
        ("h", "relu"),
        ("optimizer", "adamw"),
        ("weight_decay", "0.1"),
        ("eps", "1e-8"),
    }


def test_a_program_s_own_choices_come_before_known_families():
    assert by_name()["decay"].options == ("pal", "sage")
    assert "silu" in by_name()["activation"].options


@given(st.randoms(use_true_random=False))
def test_every_edit_keeps_the_type_and_changes_the_value(draw):
    for site in sites.find("a.py", SOURCE):
        changed = sites.replaced(SOURCE, [(site, mutator.edited(site, draw))])
        (before,) = [s for s in sites.find("a.py", SOURCE) if s.start == site.start]
        (after,) = [s for s in sites.find("a.py", changed) if s.start == site.start]
        assert (after.name, after.kind) == (before.name, before.kind)
        if site.text not in ("relu", "adamw"):
            old, new = ast.literal_eval(before.text), ast.literal_eval(after.text)
            assert type(old) is type(new)
            assert old != new


@given(st.floats(1e-12, 1e12) | st.floats(0.8, 1, exclude_max=True), st.integers())
def test_numbers_stay_on_their_side_of_one(value, seed):
    site = sites.Site("a.py", 0, 0, sites.NUMBER, repr(value), "x")
    new = float(mutator.edited(site, random.Random(seed)))
    assert new > 0
    assert (new < 1) >= (value < 1)


@given(st.integers(0, 10**6), st.integers())
def test_whole_numbers_stay_whole_and_above_zero(value, seed):
    site = sites.Site("a.py", 0, 0, sites.NUMBER, str(value), "x")
    new = int(mutator.edited(site, random.Random(seed)))
    assert new >= 1
    assert new != value


@given(st.text(max_size=200))
def test_any_text_can_be_looked_through(source):
    for site in sites.find("a.py", source):
        assert source.encode()[site.start : site.end].decode() == site.text


def test_places_are_right_behind_wide_characters():
    source = 'é = "süß"; rate = 0.5\n'
    (site,) = sites.find("a.py", source)
    assert sites.replaced(source, [(site, "0.7")]) == 'é = "süß"; rate = 0.7\n'


@pytest.fixture
def bank():
    with Bank(":memory:", write=True) as made:
        made.add(Proposal("baseline", "", "", kind=BASELINE))
        yield made


def made(seed=0):
    return Mutator({"a.py": SOURCE, "notes.txt": "rate = 1\n"}, seed, lambda diff: None)


def kept(bank, proposal):
    number = bank.add(proposal)
    bank.enqueue(number, SEARCH, 0)
    bank.finish(bank.claim().id, Outcome(State.OK, 1.0))
    bank.conclude(number)
    return number


def test_the_same_seed_and_wish_give_the_same_idea(bank):
    want = Want(FRESH, wish=4)
    assert made().propose(bank, want) == made().propose(bank, want)
    assert made().propose(bank, want) != made(1).propose(bank, want)


def test_no_idea_comes_twice(bank):
    researcher = made()
    for wish in range(60):
        kept(bank, researcher.propose(bank, Want(FRESH, wish=wish)))
    assert bank.count() == 60


def test_when_every_change_was_made_there_is_none(bank):
    researcher = Mutator({"a.py": "tied = True\n"}, 0, lambda diff: None)
    kept(bank, researcher.propose(bank, Want(FRESH)))
    assert researcher.propose(bank, Want(FRESH, wish=1)) is None


def test_a_refinement_keeps_its_parent_s_change(bank):
    researcher = made()
    parent = kept(bank, researcher.propose(bank, Want(FRESH, wish=1)))
    named = {
        a.name for a, _ in researcher._differences(researcher.changed_by(bank.idea(parent).diff))
    }
    child = researcher.propose(bank, Want(EXPLOIT, (parent,), wish=2))
    assert child.parents == (parent,)
    assert named & {a.name for a, _ in researcher._differences(researcher.changed_by(child.diff))}


def test_a_combination_takes_from_both_and_from_nothing_else(bank):
    researcher = made()
    sources = [SOURCE.replace("256", "512"), SOURCE.replace("weight_decay=0.1", "weight_decay=0.3")]
    parents = []
    for source in sources:
        diff = mutator.unified({"a.py": SOURCE}, {"a.py": source})
        researcher._remembered[diff] = {"a.py": source, "notes.txt": "rate = 1\n"}
        parents.append(kept(bank, Proposal("p", "", diff)))
    both = SOURCE.replace("256", "512").replace("weight_decay=0.1", "weight_decay=0.3")
    seen = set()
    for wish in range(30):
        proposal = researcher.propose(bank, Want(EXPLOIT, tuple(parents), wish=wish))
        seen.add(researcher.changed_by(proposal.diff)["a.py"])
    assert both in seen


def test_an_explorer_edits_what_the_others_left_alone(bank):
    researcher = made()
    first = [kept(bank, researcher.propose(bank, Want(FRESH, wish=wish))) for wish in range(3)]
    touched = {
        site.name
        for number in first
        for site, _ in researcher._differences(researcher.changed_by(bank.idea(number).diff))
    }
    for wish in range(3, 20):
        proposal = researcher.propose(bank, Want(EXPLORE, tuple(first), wish=wish))
        new = {a.name for a, _ in researcher._differences(researcher.changed_by(proposal.diff))}
        assert not new & touched


def test_a_parent_of_another_author_is_read_from_its_diff(bank):
    changed = {"a.py": SOURCE.replace("return 1.0", "return 2.0 * step"), "notes.txt": ""}
    researcher = Mutator({"a.py": SOURCE, "notes.txt": ""}, 0, lambda diff: changed)
    parent = kept(bank, Proposal("a model's", "", "its diff"))
    child = researcher.propose(bank, Want(EXPLOIT, (parent,), wish=5))
    assert "+        return 2.0 * step" in child.diff
