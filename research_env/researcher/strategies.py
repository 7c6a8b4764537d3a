"""What to ask for next: the paper's evolution, best-of-N beside which all are measured, and others.

    evolution    fresh ideas first; then a growing share refines or combines what beat the baseline,
                 and the rest is asked to differ from a sample of all that was tried
    best_of_n    always fresh: what parallel sampling is worth at the same budget
    greedy       always refines the best so far
    islands      separate populations, each refining its own best, that now and then exchange one
    map_elites   refines the best of a niche, any niche with the same chance
    bandit       chooses among the above (and among models) by what each has brought so far

NAME:key=value,... sets a strategy's numbers, as in evolution:epoch=80.
"""

import bisect
import inspect
import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from research_env.researcher.interface import EXPLOIT, EXPLORE, FRESH, Strategy, Want
from sbp_jax.errors import UserError

if TYPE_CHECKING:
    from research_env.bank import Bank, Idea

_SHOWN = 10  # past ideas that an explorer is to differ from


class Evolution:
    """The schedule of arXiv 2601.14525: epoch 0 is fresh; then exploit with a probability of
    min(0.5 + 0.1 * (epoch // 2), 0.8), from among the best `pool` that beat the baseline. It waits
    for no epoch: the number of ideas so far says which one this is.
    """

    name = "evolution"

    def __init__(self, ideas: int, epoch: int = 0, pool: int = 100, combine: float = 0.5):
        self._epoch = epoch or max(1, ideas // 10)  # the paper has ten
        self._pool, self._combine = pool, combine

    def next(self, bank: "Bank", draw: random.Random) -> Want:
        epoch = bank.count() // self._epoch
        if epoch == 0:
            return Want(FRESH, group=FRESH)
        if draw.random() < min(0.5 + 0.1 * (epoch // 2), 0.8):
            good = _ids(bank.best(self._pool, above=_baseline(bank)))
            if good:
                both = len(good) > 1 and draw.random() < self._combine
                return Want(EXPLOIT, tuple(draw.sample(good, 1 + both)))
        past = bank.ended_ids()
        return Want(EXPLORE, tuple(draw.sample(past, min(_SHOWN, len(past)))))

    def told(self, idea: "Idea") -> None: ...


class BestOfN:
    name = "best_of_n"

    def __init__(self, ideas: int): ...

    def next(self, bank: "Bank", draw: random.Random) -> Want:
        return Want(FRESH, group=FRESH)

    def told(self, idea: "Idea") -> None: ...


class Greedy:
    name = "greedy"

    def __init__(self, ideas: int, fresh: int = 8):
        self._fresh = fresh  # before there is something to refine

    def next(self, bank: "Bank", draw: random.Random) -> Want:
        best = bank.best(1, above=_baseline(bank)) if bank.count() >= self._fresh else []
        return Want(EXPLOIT, (best[0].id,)) if best else Want(FRESH, group=FRESH)

    def told(self, idea: "Idea") -> None: ...


class Islands:
    name = "islands"

    def __init__(
        self, ideas: int, islands: int = 4, elite: int = 5, fresh: float = 0.1, migrate: float = 0.1
    ):
        self._islands, self._elite, self._fresh, self._migrate = islands, elite, fresh, migrate

    def next(self, bank: "Bank", draw: random.Random) -> Want:
        island = f"island {draw.randrange(self._islands)}"
        good = bank.best(self._elite * self._islands * 4, above=_baseline(bank))
        own = [idea.id for idea in good if idea.group_id == island][: self._elite]
        if not own or draw.random() < self._fresh:
            return Want(FRESH, group=island)
        parents = [draw.choice(own)]
        others = [idea.id for idea in good if idea.group_id != island][: self._elite]
        if others and draw.random() < self._migrate:
            parents.append(draw.choice(others))
        elif len(own) > 1 and draw.random() < 0.3:
            parents.append(draw.choice([number for number in own if number != parents[0]]))
        return Want(EXPLOIT, tuple(parents), group=island)

    def told(self, idea: "Idea") -> None: ...


class MapElites:
    name = "map_elites"

    def __init__(self, ideas: int, fresh: float = 0.15, combine: float = 0.3):
        self._fresh, self._combine = fresh, combine

    def next(self, bank: "Bank", draw: random.Random) -> Want:
        elites: dict[str, int] = {}
        for idea in bank.best(1000, above=_baseline(bank)):
            elites.setdefault(idea.niche, idea.id)  # the best comes first
        if not elites or draw.random() < self._fresh:
            return Want(FRESH, group=FRESH)
        niches = sorted(elites)
        count = 2 if len(niches) > 1 and draw.random() < self._combine else 1
        return Want(EXPLOIT, tuple(elites[niche] for niche in draw.sample(niches, count)))

    def told(self, idea: "Idea") -> None: ...


class Bandit:
    """UCB1 over strategies and models. An idea's reward is the share of all ideas so far that it is
    better than, 0 if it failed: so it needs no scale, and stays fair while scores rise.
    """

    name = "bandit"

    def __init__(
        self, arms: Sequence[Strategy], models: Sequence[str] = ("",), explore: float = 0.5
    ):
        self._strategies = {arm.name: arm for arm in arms}
        self._arms = [(arm.name, model) for arm in arms for model in models]
        self._explore = explore

    def next(self, bank: "Bank", draw: random.Random) -> Want:
        rewards: dict[tuple[str, str], list[float]] = {arm: [] for arm in self._arms}
        pending = dict.fromkeys(self._arms, 0)
        ideas = [idea for idea in bank.ideas() if idea.id]
        scores = sorted(idea.score for idea in ideas if idea.score is not None)
        for idea in ideas:
            arm = (idea.strategy, idea.author if len({m for _, m in self._arms}) > 1 else "")
            if arm not in rewards:
                arm = (idea.strategy, self._arms[0][1])
            if arm not in rewards:
                continue
            if idea.finished is None:
                pending[arm] += 1
            else:
                rewards[arm].append(_rank(idea, scores, bank.direction))
        total = sum(len(found) for found in rewards.values()) + sum(pending.values())
        strategy, model = max(
            self._arms, key=lambda arm: (self._bound(rewards[arm], pending[arm], total), arm)
        )
        want = self._strategies[strategy].next(bank, draw)
        return want._replace(strategy=strategy, model=model)

    def told(self, idea: "Idea") -> None:
        for strategy in self._strategies.values():
            strategy.told(idea)

    def _bound(self, rewards: Sequence[float], pending: int, total: int) -> float:
        tried = len(rewards) + pending
        if not tried:
            return math.inf
        mean = sum(rewards) / len(rewards) if rewards else 0.5
        return mean + self._explore * math.sqrt(math.log(total + 1) / tried)


STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "evolution": Evolution,
    "best_of_n": BestOfN,
    "greedy": Greedy,
    "islands": Islands,
    "map_elites": MapElites,
}
NAMES = (*STRATEGIES, Bandit.name)


def open_strategy(spec: str, ideas: int, models: Sequence[str] = ("",)) -> Strategy:
    """NAME or NAME:key=value,...; `ideas` is the budget, which schedules are stretched to."""
    name, _, settings = spec.partition(":")
    if name == Bandit.name:
        arms = [made(ideas) for made in STRATEGIES.values()]
        return Bandit(arms, models, **_numbers(spec, settings, Bandit, ("arms", "models")))
    if name not in STRATEGIES:
        raise UserError(f"--strategy={spec}: no such strategy; there are {', '.join(NAMES)}")
    return STRATEGIES[name](ideas, **_numbers(spec, settings, STRATEGIES[name], ("ideas",)))


def _numbers(spec: str, settings: str, made: Callable[..., Strategy], but: Sequence[str]) -> dict:
    known = {
        key: parameter
        for key, parameter in inspect.signature(made).parameters.items()
        if key not in but
    }
    numbers = {}
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        try:
            numbers[key] = type(known[key].default)(value)
        except (KeyError, ValueError):
            choices = ", ".join(f"{key}={p.default}" for key, p in known.items()) or "nothing"
            raise UserError(f"--strategy={spec}: {setting!r}: it can set {choices}") from None
    return numbers


def _baseline(bank: "Bank") -> float | None:
    return bank.idea(0).score


def _ids(ideas: Sequence["Idea"]) -> list[int]:
    return [idea.id for idea in ideas]


def _rank(idea: "Idea", scores: Sequence[float], direction: str) -> float:
    if idea.score is None:
        return 0.0
    low, high = bisect.bisect_left(scores, idea.score), bisect.bisect_right(scores, idea.score)
    below = (low + high) / 2 / len(scores)  # an equal one counts half
    return below if direction == "maximize" else 1 - below
