"""Limits a minute and the pauses that servers ask for, on a clock of the test's own."""

import random

import pytest

from sbp_jax.inference.api.pace import HELD, Bucket, asked_wait, back_off


def admitted(bucket, amount, seconds):
    """When each of an endless row of requests goes."""
    now, times = 0.0, []
    while (wait := bucket.wait(amount, now)) < seconds - now:
        now += wait
        if not wait:
            bucket.take(amount)
            times.append(now)
    return times


@pytest.mark.parametrize("limit, amount", [(60, 1), (1, 1), (90_000, 1_000), (6_000, 5_000)])
def test_a_limit_is_used_up_and_no_minute_has_more_than_it_and_what_a_bucket_holds(limit, amount):
    times = admitted(Bucket(limit), amount, 600)
    assert len(times) * amount >= 10 * limit - amount
    for start in times:
        inside = sum(start <= t < start + 60 for t in times) * amount
        assert inside <= limit * (1 + HELD / 60) + amount


def test_what_is_given_back_lets_the_next_one_go_sooner():
    bucket = Bucket(60)
    bucket.wait(40, 0.0)
    bucket.take(40)  # more than it holds: a debt of 30
    assert bucket.wait(10, 0.0) == pytest.approx(40)
    bucket.take(-35)
    assert bucket.wait(10, 0.0) == pytest.approx(5)
    assert bucket.wait(10, 5.0) == 0


def test_zero_is_no_limit():
    bucket = Bucket(0)
    bucket.take(1e12)
    assert bucket.wait(1e12, 0.0) == 0


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": "Wed, 21 Oct 2026 07:29:30 GMT", "date": DATE}, 90),
        ({"retry-after": "Wed, 21 Oct 2026 07:00:00 GMT", "date": DATE}, 0),
        ({"retry-after": "Wed, 21 Oct 1998 07:00:00 GMT"}, 0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "later"}, None),
        ({}, None),
    ],
)
def test_both_headers_and_both_forms_of_retry_after_are_read(headers, seconds):
    assert asked_wait(headers) == seconds


def test_back_off_doubles_with_jitter_to_a_minute_and_is_never_below_what_was_asked():
    for failures in range(1, 12):
        exact = min(60, 2 ** (failures - 1))
        for seed in range(20):
            wait = back_off(failures, None, random.Random(seed))
            assert exact / 2 <= wait <= exact * 1.5
            assert wait == back_off(failures, None, random.Random(seed))
            assert 30 <= back_off(failures, 30.0, random.Random(seed)) <= 31
