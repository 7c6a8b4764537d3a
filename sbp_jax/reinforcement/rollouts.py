"""Texts of a policy, and the rows that it learns from."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sbp_jax.config import GrpoConfig
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import Request, Sampling, prompt_ids
from sbp_jax.inference.sampler import Sampler
from sbp_jax.reinforcement.problems import Problem


class Rollout(NamedTuple):
    problem: Problem
    text: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]  # with the id that ended it
    logprobs: tuple[float, ...]  # the sampler's, of each of them
    cut: bool  # it would have gone on


def draw(
    sampler: Sampler,
    problems: Sequence[Problem],
    grpo: GrpoConfig,
    template: str,
    *,
    group: int,
    temperature: float,
    seed: str,
) -> list[Rollout]:
    """A group of texts for each problem, one group after the other. A text depends on the seed and
    on its number, not on what is drawn beside it.
    """
    sampling = Sampling(max_tokens=grpo.max_tokens, temperature=temperature, logprobs=True)
    prompts = [
        tuple(prompt_ids(sampler.tokenizer, template.replace("{question}", problem.question)))
        for problem in problems
    ]
    for problem, prompt in zip(problems, prompts, strict=True):
        if len(prompt) + grpo.max_tokens > sampler.max_length:
            raise UserError(
                f"a prompt of {len(prompt)} tokens and config.grpo.max_tokens={grpo.max_tokens} "
                f"are more than config.data.sequence_length={sampler.max_length}; raise it, or "
                f"leave this problem out: {problem.question[:80]!r}"
            )
    requests = (
        Request(str(number * group + i), prompt, sampling, _seed(f"{seed}/{number}/{i}"))
        for number, prompt in enumerate(prompts)
        for i in range(group)
    )
    done = sorted(sampler.generate(requests), key=lambda completion: int(completion.id))
    rollouts = []
    for number, completion in enumerate(done):
        if completion.error:
            raise UserError(f"the policy cannot go on: {completion.error}")
        ended = () if completion.ended_by is None else (completion.ended_by,)
        rollouts.append(
            Rollout(
                problems[number // group],
                completion.text,
                prompts[number // group],
                (*completion.tokens, *ended),
                completion.logprobs,
                completion.finish_reason == "length",
            )
        )
    return rollouts


def rows(rollouts: Sequence[Rollout], length: int) -> dict[str, np.ndarray]:
    """[B, length] each: inputs, targets, which targets the policy has drawn, and the sampler's
    log-probabilities of these.
    """
    shape = (len(rollouts), length)
    inputs, targets = np.zeros((2, *shape), np.int32)
    drawn, sampler = np.zeros((2, *shape), np.float32)
    for row, rollout in enumerate(rollouts):
        ids = np.array(rollout.prompt + rollout.tokens, np.int32)
        inputs[row, : len(ids) - 1], targets[row, : len(ids) - 1] = ids[:-1], ids[1:]
        begin = len(rollout.prompt) - 1
        drawn[row, begin : len(ids) - 1] = 1
        sampler[row, begin : len(ids) - 1] = rollout.logprobs
    return {"inputs": inputs, "targets": targets, "drawn": drawn, "sampler": sampler}


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
