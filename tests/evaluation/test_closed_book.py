"""Questions about the toy world, asked of a model that was trained on it, and of another."""

import dataclasses

import jax
import numpy as np
import pytest

from sbp_jax.config import ToyWorldConfig
from sbp_jax.data.toyworld import World
from sbp_jax.evaluation.closed_book import toy_world_facts
from sbp_jax.inference.sampler import Sampler
from sbp_jax.model import transformer

WORLD = ToyWorldConfig(concepts=40, documents=400, held_out_documents=40)


@pytest.fixture(scope="module")
def sampler(trained):
    return Sampler.from_checkpoint(str(trained))


def test_a_model_without_training_knows_as_much_as_chance(sampler):
    config = dataclasses.replace(sampler.config, num_layers=1)
    params = transformer.init_params(config, seed=0)
    blank = Sampler(config, params, sampler.tokenizer, max_length=128)
    score = toy_world_facts(blank, WORLD, 200)
    assert len(score.values) == 200 and 0.1 < score.value < 0.4


def test_the_likeliest_of_the_whole_texts_is_the_answer(sampler):
    """Computed here of all their tokens, in one batch whose padding comes last."""
    questions = World(WORLD).questions(20)
    tokenizer = sampler.tokenizer
    begin = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    texts = [
        f"{question.prompt} {choice}." for question in questions for choice in question.choices
    ]
    rows = [[begin, *ids] for ids in tokenizer.encode(texts)]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    model = transformer.bind(sampler.config, sampler.params)
    hidden, _ = model(jax.numpy.asarray(ids))
    logprobs = np.asarray(jax.nn.log_softmax(model.logits(hidden)[:, :-1]))
    of_tokens = np.take_along_axis(logprobs, ids[:, 1:, None], 2)[..., 0]
    totals = [of[: len(row) - 1].sum() for of, row in zip(of_tokens, rows, strict=True)]
    chosen = np.reshape(totals, (-1, 4)).argmax(axis=1)
    right = [choice == question.answer for choice, question in zip(chosen, questions, strict=True)]
    np.testing.assert_array_equal(toy_world_facts(sampler, WORLD, 20).values, right)
    assert 0 < sum(right) < 20
