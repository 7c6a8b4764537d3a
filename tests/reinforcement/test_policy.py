"""The algorithm, beside a numpy oracle of it, and what has to hold whatever the machine."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbp_jax import parallel
from sbp_jax.config import (
    DataConfig,
    Experiment,
    GrpoConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from sbp_jax.model import transformer
from sbp_jax.reinforcement import policy
from sbp_jax.reinforcement.policy import Learner
from sbp_jax.training.step import init_state, state_shardings

ROWS, TIME, VOCAB, KNOWN = 8, 16, 64, 50
MODEL = ModelConfig(
    num_layers=1, d_model=32, num_heads=8, num_kv_heads=8, head_dim=8, d_ff=64, vocab_size=VOCAB
)


def experiment(accumulate=1, mesh=(1, 1, 1, 1), chunks=1, **grpo):
    fields = {"prompts": 2, "group": 4, "batch_size": ROWS, "max_tokens": 6, **grpo}
    return Experiment(
        model=dataclasses.replace(MODEL, loss_chunks=chunks),
        mesh=MeshConfig(*mesh),
        data=DataConfig(sequence_length=TIME),
        optimizer=OptimizerConfig(
            schedule="constant", peak_lr=1e-2, final_lr=1e-2, warmup="0%", weight_decay=0.0
        ),
        train=TrainConfig(tokens=4 * ROWS * TIME, batch_size=ROWS, accumulate=accumulate),
        grpo=GrpoConfig(**fields),
    )


def batch(e, params):
    """Rows with prompts and texts of many lengths, as if the model itself had drawn them."""
    random = np.random.default_rng(3)
    ids = random.integers(0, KNOWN, (ROWS, TIME + 1)).astype(np.int32)
    begin, length = random.integers(1, 8, ROWS), random.integers(1, 7, ROWS)
    places = np.arange(TIME)
    drawn = (places >= begin[:, None]) & (places < (begin + length)[:, None])
    rows = {"inputs": ids[:, :-1], "targets": ids[:, 1:], "drawn": drawn.astype(np.float32)}
    _, own = policy.log_probabilities(e, KNOWN, params, rows)
    return {**rows, "sampler": np.asarray(own) * rows["drawn"]}


def logits_of(params, rows):
    bound = transformer.bind(MODEL, params)
    return np.asarray(bound.logits(bound(rows["inputs"])[0]), np.float64)


def learnt(e, rewards, passes=1, reference=None):
    mesh = parallel.make_mesh(e.mesh, jax.devices()[: math.prod(dataclasses.astuple(e.mesh)[:4])])
    state = jax.jit(lambda: init_state(e), out_shardings=state_shardings(e, mesh))()
    one = jax.jit(lambda: init_state(e))()
    orders = [np.arange(ROWS)] * passes
    state, told = Learner(e, mesh, KNOWN).learn(
        state, batch(e, one.params), rewards, orders, reference
    )
    return jax.device_get(state.params), told


REWARDS = np.array([[1.0, 0.0, 0.0, 1.0], [0.25, 0.0, 0.5, 0.0]])


def test_log_probabilities_are_of_what_the_sampler_may_draw():
    e = experiment(temperature=0.7)
    params = transformer.init_params(MODEL, 0)
    rows = batch(e, params)
    logits = logits_of(params, rows)
    for temperature, vocab, found in zip(
        (0.7, 1.0), (KNOWN, VOCAB), policy.log_probabilities(e, KNOWN, params, rows), strict=True
    ):
        scaled = logits / temperature
        log_z = np.log(np.exp(scaled[..., :vocab]).sum(-1))
        label = np.take_along_axis(scaled, rows["targets"][..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(np.asarray(found), label - log_z, atol=2e-5)


@pytest.mark.parametrize("chunks", [2, 8])
def test_a_part_of_the_sequence_at_a_time_gives_the_same(chunks):
    params = transformer.init_params(MODEL, 0)
    rows = batch(experiment(), params)
    whole, parts = (
        policy.log_probabilities(experiment(chunks=n), KNOWN, params, rows) for n in (1, chunks)
    )
    np.testing.assert_allclose(whole, parts, atol=1e-5)


@given(
    st.lists(st.lists(st.floats(-1, 1, width=16), min_size=4, max_size=4), min_size=1, max_size=5),
    st.integers(0, 1),
)
def test_advantages_are_of_the_group_alone(rewards, ddof):
    rewards = np.array(rewards)
    found = policy.advantages(rewards, GrpoConfig(ddof=ddof, epsilon=1e-6))
    for group, given_to in zip(rewards, found, strict=True):
        mean = sum(group) / 4
        deviation = math.sqrt(sum((r - mean) ** 2 for r in group) / (4 - ddof))
        np.testing.assert_allclose(given_to, (group - mean) / (deviation + 1e-6), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-6)
    same = policy.advantages(np.full((2, 6), 0.1), GrpoConfig(epsilon=0.0, ddof=ddof))
    np.testing.assert_array_equal(same, 0)
    plain = policy.advantages(rewards, GrpoConfig(advantage="mean"))
    np.testing.assert_allclose(plain, rewards - rewards.mean(1, keepdims=True))


@pytest.mark.parametrize("length", ["tokens", "texts", "constant"])
def test_what_a_token_weighs(length):
    drawn = np.array([[0, 1, 1, 1], [0, 0, 1, 0]], np.float32)
    weights = policy.token_weights(drawn, GrpoConfig(length=length, max_tokens=4))
    first, second = {
        "tokens": (1 / 4, 1 / 4),
        "texts": (1 / 6, 1 / 2),
        "constant": (1 / 8, 1 / 8),
    }[length]
    np.testing.assert_allclose(weights, drawn * [[first], [second]])


@pytest.mark.parametrize("loss", ["clip", "ratio", "reinforce"])
@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_the_loss_is_that_of_a_numpy_oracle(loss, kl):
    e = experiment(loss=loss, kl=kl, temperature=0.8, clip=0.1)
    state = init_state(e)
    rows = batch(e, state.params)
    random = np.random.default_rng(5)
    new, _ = policy.log_probabilities(e, KNOWN, state.params, rows)
    new = np.asarray(new, np.float64)
    old, reference = (new + random.normal(size=new.shape) * 0.2 for _ in range(2))
    each = policy.advantages(REWARDS, e.grpo).reshape(-1, 1)
    weights = policy.token_weights(rows["drawn"], e.grpo)
    given_batch = {
        "inputs": rows["inputs"],
        "targets": rows["targets"],
        "weights": weights,
        "advantages": (each * np.ones_like(weights)).astype(np.float32),
        "old": old.astype(np.float32),
        "reference": reference.astype(np.float32),
    }
    _, told = policy.update(e, KNOWN, state, given_batch)
    expected = 0.0
    for row in range(ROWS):
        for t in range(TIME):
            ratio = math.exp(new[row, t] - old[row, t])
            advantage = each[row, 0]
            gain = {
                "clip": min(ratio * advantage, min(max(ratio, 0.9), 1.1) * advantage),
                "ratio": ratio * advantage,
                "reinforce": new[row, t] * advantage,
            }[loss]
            ahead = reference[row, t] - new[row, t]
            expected -= weights[row, t] * (gain - kl * (math.exp(ahead) - ahead - 1))
    assert float(told["loss"]) == pytest.approx(expected, rel=2e-4, abs=2e-6)
    assert float(told["clipped"]) > 0


def test_the_ratio_is_one_before_the_first_update_and_groups_of_one_reward_teach_nothing():
    flat = np.array([[1.0] * 4, [0.25] * 4])
    params, told = learnt(experiment(temperature=0.8), flat)
    assert told["ratio"] < 1e-6 and told["clipped"] == 0 and told["sampler_gap"] < 1e-6
    assert told["loss"] == 0 and told["grad_norm"] == 0
    jax.tree.map(
        np.testing.assert_array_equal, params, jax.device_get(init_state(experiment()).params)
    )
    _, told = learnt(experiment(temperature=0.8), REWARDS)
    assert told["ratio"] < 1e-6 and told["grad_norm"] > 0.01
    _, twice = learnt(experiment(temperature=0.8), REWARDS, passes=2)
    assert twice["ratio"] > 1e-3  # the mean of both: by the second the policy has moved


def test_an_update_makes_good_texts_likelier_and_bad_ones_less_likely():
    e = experiment()
    before = jax.device_get(init_state(e).params)
    after, _ = learnt(e, REWARDS)
    rows = batch(e, before)
    old, new = (policy.log_probabilities(e, KNOWN, p, rows)[0] for p in (before, after))
    change = (np.asarray(new - old) * rows["drawn"]).sum(1)
    better = policy.advantages(REWARDS, e.grpo).reshape(-1)
    assert np.corrcoef(change, better)[0, 1] > 0.7


@pytest.mark.parametrize("mesh", [(2, 4, 1, 1), (1, 2, 2, 2)])
def test_the_update_is_the_same_on_every_mesh(mesh):
    alone, told_alone = learnt(experiment(), REWARDS)
    split, told = learnt(experiment(mesh=mesh), REWARDS)
    assert told["loss"] == pytest.approx(told_alone["loss"], abs=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), alone, split)
    assert told["grad_norm"] == pytest.approx(told_alone["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("length", ["tokens", "texts"])
def test_the_update_is_the_same_in_parts(length):
    whole, told_whole = learnt(experiment(length=length), REWARDS)
    parts, told = learnt(experiment(length=length, accumulate=4), REWARDS)
    assert told["grad_norm"] == pytest.approx(told_whole["grad_norm"], rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), whole, parts)


def test_a_sampler_with_other_weights_is_found_out():
    e = experiment()
    mesh = parallel.make_mesh(e.mesh, jax.devices()[:1])
    stale = jax.tree.map(lambda x: x * 1.5, init_state(e).params)
    rows = batch(e, stale)
    with pytest.raises(RuntimeError, match="draws with other weights"):
        Learner(e, mesh, KNOWN).learn(init_state(e), rows, REWARDS, [np.arange(ROWS)])
