"""AdamW is torch's; Muon's updates are orthogonal; rates follow the schedule and the width."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from sbp_jax.config import (
    DataConfig,
    Experiment,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from sbp_jax.config_rules import duration, validate
from sbp_jax.model import transformer
from sbp_jax.model.attention import Seen
from sbp_jax.training.optimizer import learning_rate, make_optimizer
from sbp_jax.training.step import init_state, train_step

MODEL = ModelConfig(
    num_layers=3,
    d_model=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    d_ff=48,
    vocab_size=40,
    attention_bias=True,
    tie_embeddings=False,
)
DECAYED = {"head", "wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down"}
INPUT_AXES = {  # of one layer's weight: the axes that its matmul sums over
    "wq": 1,
    "wk": 1,
    "wv": 1,
    "wo": 2,
    "w_gate": 1,
    "w_up": 1,
    "w_down": 1,
}


def experiment(steps=100, **optimizer):
    return Experiment(
        model=MODEL,
        data=DataConfig(sequence_length=8),
        optimizer=OptimizerConfig(**optimizer),
        train=TrainConfig(tokens=steps * 16, batch_size=2),
    )


def random_tree(seed, scale=1.0):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: (scale * random.normal(size=x.shape)).astype(np.float32),
        transformer.param_shapes(MODEL),
    )


def named(tree):
    return {path[-1].key: leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def update(e, gradients, params):
    """What the first step adds to the parameters, for a rate of one."""
    optimizer = make_optimizer(e)
    return named(jax.device_get(optimizer.update(gradients, optimizer.init(params), params)[0]))


def test_adamw_with_clipping_and_decay_of_matrices_alone_is_torchs():
    torch = pytest.importorskip("torch")
    e = experiment(steps=10, weight_decay=0.3, warmup="30%", clip_norm=1.0)
    o, optimizer, rate = e.optimizer, make_optimizer(e), learning_rate(e)
    params = random_tree(0)
    theirs = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in named(params).items()}
    groups = [
        {
            "params": [x for name, x in theirs.items() if (name in DECAYED) == decays],
            "weight_decay": d,
        }
        for decays, d in ((True, o.weight_decay), (False, 0.0))
    ]
    reference = torch.optim.AdamW(groups, betas=(o.beta1, o.beta2), eps=o.eps)

    @jax.jit
    def ours(params, state, gradients, step):
        updates, state = optimizer.update(gradients, state, params)
        return jax.tree.map(lambda p, u: p + rate(step) * u, params, updates), state

    state = optimizer.init(params)
    for step in range(10):
        gradients = random_tree(step + 1, scale=0.3 if step % 2 else 1e-3)  # clipped, and not
        params, state = ours(params, state, gradients, step)
        for name, gradient in named(gradients).items():
            theirs[name].grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_(theirs.values(), o.clip_norm)
        for group in reference.param_groups:
            group["lr"] = float(rate(step))
        reference.step()
    for name, value in named(jax.device_get(params)).items():
        np.testing.assert_allclose(value, theirs[name].detach().numpy(), rtol=1e-6, atol=1e-6)


def as_matrices(name, x):
    """[layers, inputs, outputs]"""
    inputs = np.prod(x.shape[1 : 1 + INPUT_AXES[name]])
    return x.reshape(x.shape[0], inputs, -1)


def test_muon_makes_the_update_of_each_layers_matrix_orthogonal():
    e = experiment(name="muon", weight_decay=0.0)
    updates = update(e, random_tree(1), random_tree(0))
    for name in INPUT_AXES:
        matrices = as_matrices(name, updates[name])
        _, inputs, outputs = matrices.shape
        rate = e.optimizer.muon_lr / e.optimizer.peak_lr * max(1, outputs / inputs) ** 0.5
        for matrix in matrices:
            # Five Newton-Schulz iterations bring every singular value between about 0.7 and 1.2.
            values = np.linalg.svd(matrix / rate, compute_uv=False)
            assert values.min() > 0.6 and values.max() < 1.25


def test_muon_updates_each_layer_by_its_own_gradient_and_downhill():
    e = experiment(name="muon", weight_decay=0.0, clip_norm=0.0)
    params, gradients = random_tree(0), random_tree(1)
    other = jax.tree.map(np.copy, gradients)
    for name in INPUT_AXES:
        other["layers"][name][0] *= -3
    a, b = update(e, gradients, params), update(e, other, params)
    for name in INPUT_AXES:
        np.testing.assert_allclose(a[name][1:], b[name][1:], atol=1e-5)
        assert np.abs(a[name][0] - b[name][0]).max() > 0.01
        assert all(
            np.vdot(g, u) < 0 for g, u in zip(gradients["layers"][name], a[name], strict=True)
        )


def test_muon_leaves_what_is_no_matrix_to_adam():
    params, gradients = random_tree(0), random_tree(1)
    muon, adam = (update(experiment(name=name), gradients, params) for name in ("muon", "adamw"))
    for name in set(muon) - set(INPUT_AXES):
        np.testing.assert_array_equal(muon[name], adam[name])


def rates(e):
    """Of every step; computed for as many steps each time, so that it is compiled once."""
    return np.asarray(learning_rate(e)(np.arange(128)))[: e.num_steps]


@given(
    st.sampled_from(["cosine", "wsd", "constant"]),
    st.integers(0, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0, 1),
)
def test_a_rate_rises_to_its_peak_and_falls_to_its_final_value_at_the_last_step(
    schedule, warmup, stable, decay, final
):
    e = experiment(
        steps=warmup + stable + decay,
        schedule=schedule,
        warmup=f"{warmup} steps",
        decay=f"{decay} steps",
        peak_lr=1.0,
        final_lr=final,
    )
    validate(e)
    seen = rates(e)
    np.testing.assert_allclose(seen[:warmup], np.arange(1, warmup + 1) / max(warmup, 1), rtol=1e-5)
    assert np.all(np.diff(seen[warmup:]) <= 1e-6)
    if schedule == "constant":
        np.testing.assert_array_equal(seen[warmup:], 1.0)
    else:
        assert seen[-1] == pytest.approx(final, abs=1e-6)
    if schedule == "wsd":
        np.testing.assert_array_equal(seen[warmup : warmup + stable], 1.0)
        assert seen[-1 - decay // 2] == pytest.approx(
            final + (1 - final) * (decay // 2) / decay, abs=1e-5
        )


def test_a_cosine_is_half_way_down_in_its_middle():
    e = experiment(steps=110, warmup="10 steps", peak_lr=1.0, final_lr=0.2)
    seen = rates(e)
    assert seen[9] == 1.0
    assert seen[59] == pytest.approx(0.6, abs=1e-6)
    assert seen[34] == pytest.approx(0.2 + 0.8 * (1 + 0.5**0.5) / 2, abs=1e-6)


def test_a_duration_in_tokens_is_that_of_its_steps():
    in_tokens = experiment(warmup="160 tokens", schedule="wsd", decay="3.2e2 tokens")
    in_steps = experiment(warmup="10 steps", schedule="wsd", decay="20 steps")
    in_percent = experiment(warmup="10%", schedule="wsd", decay="20%")
    np.testing.assert_array_equal(rates(in_tokens), rates(in_steps))
    np.testing.assert_array_equal(rates(in_percent), rates(in_steps))
    assert duration("160 tokens", in_tokens) == 10


@functools.cache
def changes_in_four_steps(parametrization, width):
    """How far four steps at a rate of 1e-2 move the residual stream after each layer, and the
    logits: root mean squares over one batch.
    """
    model = ModelConfig(
        num_layers=2,
        d_model=width,
        num_heads=width // 16,
        num_kv_heads=width // 16,
        head_dim=16,
        d_ff=2 * width,
        vocab_size=128,
        parametrization=parametrization,
        mup_base_width=64,
    )
    e = Experiment(
        model=model,
        data=DataConfig(sequence_length=16),
        optimizer=OptimizerConfig(
            peak_lr=1e-2, final_lr=1e-2, schedule="constant", warmup="0 steps"
        ),
        train=TrainConfig(tokens=4 * 256, batch_size=16),
    )
    ids = np.random.default_rng(0).integers(128, size=(16, 17)).astype(np.int32)
    batch = {
        "inputs": ids[:, :-1],
        "targets": ids[:, 1:],
        "segments": np.zeros((16, 16), np.int32),
        "weights": np.ones((16, 16), np.float32),
    }

    def activations(params):
        bound = transformer.bind(model, params)
        graphdef, layers = nnx.split(bound.layers)
        positions = jnp.broadcast_to(jnp.arange(16), (16, 16))
        rope = transformer.rope_angles(positions, model)
        seen = [bound.embed[...][batch["inputs"]]]
        for number in range(model.num_layers):
            block = nnx.merge(graphdef, jax.tree.map(lambda x, i=number: x[i], layers))
            seen.append(block(seen[-1], rope, Seen(batch["segments"]))[0])
        return [*seen[1:], bound.logits(bound(batch["inputs"])[0])]

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def train():
        before = init_state(e)
        after, _ = jax.lax.scan(
            lambda state, _: train_step(e, state, batch, jnp.zeros(1)), before, length=4
        )
        pairs = zip(activations(before.params), activations(after.params), strict=True)
        return [jnp.sqrt(jnp.mean((b - a) ** 2)) for a, b in pairs]

    return np.array(jax.device_get(train()))


def test_under_mup_simple_activations_move_as_far_at_any_width():
    moved = np.array([changes_in_four_steps("mup_simple", w) for w in (64, 128, 256, 512)])
    layers, logits = moved[:, :-1], moved[:, -1]
    np.testing.assert_allclose(layers, np.broadcast_to(layers[0], layers.shape), rtol=0.25)
    # The logits also hold a part that averages out as the width grows: the first embeddings', which
    # are random. What training adds to them must not grow, nor vanish.
    assert np.all(np.diff(logits) < 0) and logits[-1] > 0.4 * logits[0]
    assert logits[-1] / logits[-2] > logits[1] / logits[0]


def test_under_the_standard_parametrization_activations_move_farther_as_the_width_grows():
    # At its base width, mup_simple is the standard one.
    base = changes_in_four_steps("standard", 64)
    np.testing.assert_allclose(base, changes_in_four_steps("mup_simple", 64), rtol=1e-5)
    wide = changes_in_four_steps("standard", 512)
    assert np.all(wide[:-1] > 4 * base[:-1]) and wide[-1] > 1.5 * base[-1]


def test_mup_simple_slows_the_matrices_alone():
    standard = experiment(weight_decay=0.0)
    model = dataclasses.replace(MODEL, parametrization="mup_simple", mup_base_width=8)
    mup = dataclasses.replace(standard, model=model)
    gradients, params = random_tree(1), random_tree(0)
    a, b = update(standard, gradients, params), update(mup, gradients, params)
    for name in a:
        np.testing.assert_allclose(b[name], a[name] * (0.25 if name in INPUT_AXES else 1.0))
