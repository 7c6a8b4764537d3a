"""When the next request may go to a server: its limits a minute, and the pauses that it asks for.

A limit is a bucket that fills all the time. It holds ten seconds' worth and not a minute's: a full
one at the start would let twice the limit through in the first minute. What is larger than a bucket
goes when it is full, and leaves a debt.
"""

import asyncio
import email.utils
import math
import random
import time
from collections.abc import Mapping

LONGEST_BACK_OFF = 60.0  # seconds
HELD = 10.0  # seconds' worth in a full bucket


class Clock:
    """Time, in one place, so that a test can have its own."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Bucket:
    def __init__(self, per_minute: float):
        """0 is no limit."""
        self._rate = per_minute / 60
        self._size = max(1.0, self._rate * HELD)
        self._level = self._size
        self._filled_at = -math.inf

    def wait(self, amount: float, now: float) -> float:
        """Seconds until so much may be taken; 0 is now."""
        if not self._rate:
            return 0.0
        self._level = min(self._size, self._level + self._rate * (now - self._filled_at))
        self._filled_at = now
        missing = min(amount, self._size) - self._level
        return missing / self._rate if missing > 1e-6 else 0.0  # below it, a sum's rounding

    def take(self, amount: float) -> None:
        """Of what `wait` has let through; a negative amount gives back."""
        self._level -= amount


class Gate:
    """Lets attempts through one by one, in the order in which they came."""

    def __init__(self, requests: Bucket, tokens: Bucket, clock: Clock):
        self._requests, self._tokens, self._clock = requests, tokens, clock
        self._turn = asyncio.Lock()
        self._closed_until = -math.inf

    async def enter(self, tokens: float) -> None:
        async with self._turn:
            while wait := self._wait(tokens):
                # In parts, for what others give back may open it sooner.
                await self._clock.sleep(min(wait, 0.1))
            self._requests.take(1)
            self._tokens.take(tokens)

    def give_back(self, tokens: float) -> None:
        self._tokens.take(-tokens)

    def close_for(self, seconds: float) -> None:
        """For everybody."""
        self._closed_until = max(self._closed_until, self._clock.now() + seconds)

    def _wait(self, tokens: float) -> float:
        now = self._clock.now()
        return max(
            0.0,
            self._closed_until - now,
            self._requests.wait(1, now),
            self._tokens.wait(tokens, now),
        )


def back_off(failures: int, asked: float | None, draw: random.Random) -> float:
    """Seconds before attempt `failures` + 1: what the server asked for, or about 1, 2, 4, ...; with
    jitter, so that those who were refused together do not come back together.
    """
    if asked is not None:
        return asked + min(asked, 1.0) * draw.random()
    return min(LONGEST_BACK_OFF, 2.0 ** (failures - 1)) * (0.5 + draw.random())


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait: in `retry-after-ms`, or in `Retry-After` as a number or
    a date, which is taken by the server's own clock where the answer has its time.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= seconds < math.inf:
            return seconds
    try:
        until = email.utils.parsedate_to_datetime(headers.get("retry-after", "")).timestamp()
    except (ValueError, OverflowError):
        return None
    try:
        now = email.utils.parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        now = time.time()
    return max(0.0, until - now)
