"""What a model knows without a text to read from: multiple-choice questions about the toy world."""

import numpy as np

from sbp_jax.config import ToyWorldConfig
from sbp_jax.data.toyworld import World
from sbp_jax.evaluation.scores import Score
from sbp_jax.inference.sampler import Sampler
from sbp_jax.inference.score import Scorer


def toy_world_facts(sampler: Sampler, world: ToyWorldConfig, count: int) -> Score:
    """Of different facts, rare concepts' as often as frequent ones', the share for which the true
    value is likelier than three others; a quarter is chance.
    """
    concepts = World(world)
    facts = sum(len(concept.attributes) for concept in concepts.concepts)
    questions = concepts.questions(min(count, facts))
    tokenizer = sampler.tokenizer
    begin = [tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id]
    sequences = []
    for question in questions:
        prompt, *texts = tokenizer.encode(
            [question.prompt, *(f"{question.prompt} {choice}." for choice in question.choices)]
        )
        # From where the texts part, which need not be where the prompt's own tokens end.
        shared = min(
            next(
                (i for i, (a, b) in enumerate(zip(prompt, text, strict=False)) if a != b),
                len(prompt),
            )
            for text in texts
        )
        sequences += [(begin + text, 1 + shared) for text in texts]
    logprobs = np.zeros(len(sequences))
    for number, values, _ in Scorer(sampler).score(sequences):
        logprobs[number] = values.sum(dtype=np.float64)
    chosen = logprobs.reshape(-1, 4).argmax(axis=1)
    right = chosen == np.array([question.answer for question in questions])
    return Score(right.astype(float), np.ones(len(right)))
