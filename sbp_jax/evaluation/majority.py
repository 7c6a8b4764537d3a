"""Several answers to a problem vote: the one that most of them are equal to is taken.

Equal answers are one candidate, however they are spelt; no answer is no vote. Where several have
the most votes, one of them is taken by chance.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sbp_jax.evaluation.maths import Judge

SUBSETS = 1000  # of the answers, from which the accuracy of fewer votes is taken


class Votes(NamedTuple):
    """Of each answer to a problem."""

    candidate: list[int]  # -1 is none
    right: list[bool]


def count(
    judge: Judge, golds: Sequence[str], answers: Sequence[Sequence[str | None]]
) -> list[Votes]:
    """Of each problem."""
    unique = [list(dict.fromkeys(a for a in each if a is not None)) for each in answers]
    pairs = [(gold, a) for gold, each in zip(golds, unique, strict=True) for a in each]
    pairs += [pair for each in unique for pair in itertools.combinations(each, 2)]
    equal = dict(zip(pairs, judge.equal(pairs), strict=True))
    votes = []
    for gold, each, different in zip(golds, answers, unique, strict=True):
        # An answer is for the first that it is equal to, and as right as that one.
        candidates: list[str] = []
        chosen: dict[str | None, int] = {None: -1}
        for answer in different:
            same = (i for i, c in enumerate(candidates) if equal[c, answer])
            chosen[answer] = next(same, len(candidates))
            if chosen[answer] == len(candidates):
                candidates.append(answer)
        numbers = [chosen[answer] for answer in each]
        votes.append(Votes(numbers, [n >= 0 and equal[gold, candidates[n]] for n in numbers]))
    return votes


def accuracy(votes: Votes, voters: int, random: np.random.Generator) -> float:
    """The chance that so many of the answers elect a right one: the mean over subsets, each as
    likely as any other, and over all of them where they are not too many.
    """
    answers = len(votes.candidate)
    if math.comb(answers, voters) <= SUBSETS:
        subsets = list(itertools.combinations(range(answers), voters))
    else:
        subsets = [tuple(random.permutation(answers)[:voters]) for _ in range(SUBSETS)]
    return float(np.mean([_elected(votes, subset) for subset in subsets]))


def _elected(votes: Votes, voters: tuple[int, ...]) -> float:
    got = Counter(votes.candidate[i] for i in voters if votes.candidate[i] >= 0)
    if not got:
        return 0.0
    best = {candidate for candidate, number in got.items() if number == max(got.values())}
    right = {votes.candidate[i] for i in voters if votes.right[i]}
    return len(best & right) / len(best)
