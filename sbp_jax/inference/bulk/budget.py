"""A limit on tokens or cost that is never passed, whatever the engine has in flight.

A request's worst case, its prompt and as many new tokens as it allows, is set aside before the
engine gets it; its completion gives back what it did not use. So spending stops within one request
of the limit: when the next no longer fits beside those in flight, they are waited for first.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sbp_jax.inference.bulk.output import Answer
from sbp_jax.inference.engine import Completion, Engine, Request

COMPLAINT = 500  # tokens, amply


class BudgetSpent(RuntimeError):
    """The rest of a job does not fit; with a higher limit it goes on."""


@dataclass
class Budget:
    """Not shared by processes: of several, each needs a share of its own."""

    max_tokens: int | None = None  # of prompts and texts
    max_cost: float | None = None
    tokens: int = 0  # spent
    cost: float = 0.0
    exhausted: bool = False  # a request did not fit with nothing else in flight
    _reserved: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def limited(self) -> bool:
        return self.max_tokens is not None or self.max_cost is not None

    def reserve(self, engine: Engine, request: Request) -> bool:
        """Sets a request's worst case aside, if it fits."""
        prompt, new = engine.prompt_tokens(request.prompt), request.sampling.max_tokens
        if request.sampling.schema:  # an API has a text mended twice, and is told what was wrong
            prompt, new = 3 * (prompt + new + COMPLAINT), 3 * new
        tokens, cost = prompt + new, engine.cost(prompt, new)
        held = self._reserved.values()
        all_tokens = self.tokens + sum(t for t, _ in held) + tokens
        all_cost = self.cost + sum(c for _, c in held) + cost
        fits = (self.max_tokens is None or all_tokens <= self.max_tokens) and (
            self.max_cost is None or all_cost <= self.max_cost
        )
        if fits:
            self._reserved[request.id] = tokens, cost
        return fits

    def settle(self, completion: Completion) -> None:
        self._reserved.pop(completion.id, None)
        self.tokens += completion.prompt_tokens + completion.new_tokens
        self.cost += completion.cost

    def count(self, answers: Iterable[Answer]) -> int:
        """Adds what answers took; returns how many there are."""
        number = 0
        for answer in answers:
            self.tokens += answer.prompt_tokens + answer.new_tokens
            self.cost += answer.cost
            number += 1
        return number

    def release(self) -> None:
        """What is in flight will not be answered."""
        self._reserved.clear()

    def spent(self, done: int) -> BudgetSpent:
        limits = {"max_tokens": self.max_tokens, "max_cost": self.max_cost}
        flags = " ".join(f"--{name}={limit}" for name, limit in limits.items() if limit is not None)
        return BudgetSpent(
            f"{flags}: the next request might pass it; {done:,} texts are done, for "
            f"{self.tokens:,} tokens and a cost of {self.cost:.4g}; with a higher limit the same "
            "command goes on"
        )


def within(engine: Engine, requests: Iterable[Request], budget: Budget) -> Iterator[Completion]:
    """`engine.generate(requests)`, ended early by the budget, which then is `exhausted`.

    A request that has been taken from `requests` but did not fit is not answered.
    """
    if not budget.limited:
        yield from engine.generate(requests)
        return
    requests = iter(requests)
    following: Request | None = next(requests, None)

    def admitted() -> Iterator[Request]:
        nonlocal following
        while following is not None and budget.reserve(engine, following):
            request, following = following, None
            yield request
            following = next(requests, None)

    try:
        while following is not None:
            asked = following
            for completion in engine.generate(admitted()):
                budget.settle(completion)
                yield completion
            if following is asked:  # not admitted, with nothing in flight
                budget.exhausted = True
                return
    finally:
        budget.release()
