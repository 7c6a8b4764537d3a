import pytest
from hypothesis import given
from hypothesis import strategies as st

from research_env.running.inventory import Inventory, Share
from research_env.sandbox.protocol import Resource
from sbp_jax.errors import UserError


def test_cores_and_gpus_are_lent_to_one_run_each():
    inventory = Inventory((0, 1, 2, 3), ("0", "1", "2"), 8000)
    needs = Resource(cores=1, gpus=1)
    shares = [inventory.take(needs, 1000) for _ in range(4)]
    assert [share and share.gpus for share in shares] == [("0",), ("1",), ("2",), None]
    assert len({share.cores for share in shares if share}) == 3
    inventory.give_back(shares[1])
    assert inventory.take(needs, 1000).gpus == ("1",)


def test_memory_is_counted():
    inventory = Inventory(tuple(range(8)), (), 5000)
    shares = [inventory.take(Resource(), 2000) for _ in range(3)]
    assert [share is not None for share in shares] == [True, True, False]
    assert inventory.capacity(Resource(), 1000) == 1


def test_what_an_adopted_run_has_is_not_lent_again():
    inventory = Inventory((0, 1), ("a", "b"), 4000)
    inventory.hold(Share((0,), ("b",), 1000))
    assert inventory.take(Resource(1, 1), 1000) == Share((1,), ("a",), 1000)
    assert inventory.take(Resource(1, 0), 1000) is None


def test_given_slots_stand_in_for_cores_but_not_for_gpus():
    inventory = Inventory((0,), ("a",), 1000, slots=5)
    assert inventory.capacity(Resource(cores=4), 10**6) == 5
    assert inventory.capacity(Resource(gpus=1), 0) == 1
    assert [inventory.take(Resource(cores=4), 10**6) for _ in range(6)][4:] == [Share(), None]


def test_a_run_that_never_fits_is_refused_with_what_there_is():
    with pytest.raises(UserError, match="needs 1 cores, 2 GPUs and 500 MB; this machine has 4, 1"):
        Inventory((0, 1, 2, 3), ("0",), 8000).require(Resource(1, 2), 500)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), st.booleans()), max_size=40))
def test_nothing_is_lent_twice_or_lost(steps):
    inventory, lent = Inventory((0, 1, 2, 3), ("0", "1"), 100), []
    for cores, gpus, give in steps:
        if give and lent:
            inventory.give_back(lent.pop())
        elif (share := inventory.take(Resource(cores, gpus), 20)) is not None:
            lent.append(share)
        for field in (0, 1):
            held = [thing for share in lent for thing in share[field]]
            assert len(held) == len(set(held))
    for share in lent:
        inventory.give_back(share)
    assert inventory.capacity(Resource(1, 0), 20) == 4
    assert inventory.capacity(Resource(1, 1), 20) == 2
