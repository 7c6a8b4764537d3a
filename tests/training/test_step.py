"""The step computes the same training whatever the mesh, the accumulation or the way of computing;
and a gradient that is not finite leaves no trace but a count.
"""

import dataclasses
import functools
import itertools
import math

import jax
import numpy as np
import pytest

from sbp_jax import parallel
from sbp_jax.config import (
    DataConfig,
    Experiment,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from sbp_jax.errors import UserError
from sbp_jax.model import transformer
from sbp_jax.training.optimizer import learning_rate
from sbp_jax.training.step import (
    eval_step,
    init_state,
    loss_sums,
    state_shardings,
    stop_flags,
    trace_train_step,
)

STEPS, BATCH, TIME, VOCAB = 20, 8, 32, 64
MODEL = ModelConfig(
    num_layers=2, d_model=32, num_heads=8, num_kv_heads=8, head_dim=8, d_ff=64, vocab_size=VOCAB
)
ONE_DEVICE = (1, 1, 1, 1)
ALL_AXES = (1, 2, 2, 2)
MESHES = [sizes for sizes in itertools.product((1, 2, 4, 8), repeat=4) if math.prod(sizes) == 8]

# Half of the time of a compilation goes to LLVM's optimisations, which these tests do without.
QUICKLY = {"xla_backend_optimization_level": 0}


def experiment(accumulate=1, optimizer="adamw", **model):
    return Experiment(
        model=dataclasses.replace(MODEL, **model),
        data=DataConfig(sequence_length=TIME),
        optimizer=OptimizerConfig(name=optimizer),
        train=TrainConfig(tokens=STEPS * BATCH * TIME, batch_size=BATCH, accumulate=accumulate),
    )


def batch(number):
    """Packed documents in which every second token follows from the one before; some tokens do not
    count.
    """
    random = np.random.default_rng(number)
    tokens = random.integers(VOCAB, size=(BATCH, TIME + 1))
    tokens[:, 1::2] = (tokens[:, :-1:2] * 7 + 3) % VOCAB
    ids = tokens.astype(np.int32)
    return {
        "inputs": ids[:, :-1],
        "targets": ids[:, 1:],
        "segments": np.cumsum(random.random((BATCH, TIME)) < 0.1, axis=1).astype(np.int32),
        "weights": (random.random((BATCH, TIME)) < 0.8).astype(np.float32),
    }


def mesh_of(sizes):
    return parallel.make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])


@functools.cache
def initial(**changes):
    """On the host: a state is donated to the step that takes it."""
    make = jax.jit(functools.partial(init_state, experiment(**changes)), compiler_options=QUICKLY)
    return jax.device_get(make())


@functools.cache
def compiled(sizes, **changes):
    """A function of a state, a batch and the flags, all of which may be on the host."""
    e, mesh = experiment(**changes), mesh_of(sizes)
    step = trace_train_step(e, mesh).lower().compile(QUICKLY)
    layouts = state_shardings(e, mesh), parallel.batch_sharding(mesh)

    go_on = stop_flags(mesh, False)

    def run(state, batch, flags=go_on):
        return step(*jax.device_put((state, batch), layouts), flags)

    return run


@functools.cache
def losses(sizes, **changes):
    """Of every step, and then of a held-out batch."""
    e, mesh = experiment(**changes), mesh_of(sizes)
    step, state, seen = compiled(sizes, **changes), initial(**changes), []
    for number in range(STEPS):
        state, metrics = step(state, batch(number))
        seen.append(metrics["loss"])
    with jax.set_mesh(mesh):
        evaluate = jax.jit(functools.partial(eval_step, e), compiler_options=QUICKLY)
        held_out = jax.device_put(batch(STEPS), parallel.batch_sharding(mesh))
        total, count = jax.device_get(evaluate(state.params, held_out))
    return np.array([*jax.device_get(seen), total / count])


def assert_same_losses(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_one_device_learns():
    seen = losses(ONE_DEVICE)
    assert seen[:3].mean() - seen[-3:].mean() > 0.3


@pytest.mark.parametrize("sizes", MESHES, ids=lambda sizes: "x".join(map(str, sizes)))
def test_every_mesh_of_eight_devices_has_the_losses_of_one_device(sizes):
    assert_same_losses(losses(sizes), losses(ONE_DEVICE))


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulate": 2},
        {"accumulate": BATCH},
        {"scan_layers": False},
        {"remat": "full"},
        {"remat": "qkv", "scan_layers": False},
        {"remat": "attention"},
        {"remat": "minimal"},
        {"loss_chunks": 4},
        {"loss_chunks": TIME, "accumulate": 4},
    ],
    ids=str,
)
def test_the_way_of_computing_does_not_change_the_losses(changes):
    assert_same_losses(losses(ONE_DEVICE, **changes), losses(ONE_DEVICE))


@pytest.mark.parametrize(
    "changes", [{"tie_embeddings": False}, {"optimizer": "muon"}], ids=["untied", "muon"]
)
def test_other_models_and_optimizers_have_the_same_losses_on_all_axes_in_parts(changes):
    on_mesh = losses(ALL_AXES, accumulate=2, loss_chunks=4, remat="attention", **changes)
    assert_same_losses(on_mesh, losses(ONE_DEVICE, **changes))


@pytest.mark.parametrize("changes", [{"accumulate": 4}, {"remat": "full"}, {"scan_layers": False}])
def test_dropout_drops_the_same_whatever_the_mesh_and_the_way_of_computing(changes):
    dropped = losses(ONE_DEVICE, dropout=0.25)
    assert_same_losses(losses(ONE_DEVICE, dropout=0.25, **changes), dropped)
    assert_same_losses(losses(ALL_AXES, dropout=0.25, **changes), dropped)
    assert np.abs(dropped - losses(ONE_DEVICE)).max() > 0.01


def test_dropout_leaves_evaluation_and_the_mean_as_they_are():
    e = experiment(dropout=0.5)
    params, same = transformer.init_params(e.model, 0), batch(0)
    evaluate = jax.jit(functools.partial(eval_step, e), compiler_options=QUICKLY)
    assert_identical(evaluate(params, same), eval_step(experiment(), params, same))
    keys = jax.random.split(jax.random.key(0), 64)
    x = np.random.default_rng(0).normal(size=(64, 32, 32)).astype(np.float32) + 3
    y = transformer.drop(x, 0.3, keys, 0)
    assert np.mean(np.asarray(y) == 0) == pytest.approx(77 / 256, abs=0.01)
    assert np.mean(y) == pytest.approx(x.mean(), rel=0.02)
    assert not np.array_equal(y[0] == 0, y[1] == 0)
    assert np.array_equal(y[3:5], transformer.drop(x[3:5], 0.3, keys[3:5], 0))


@pytest.mark.parametrize("sizes", [(1, 8, 1, 1), ALL_AXES], ids=str)
def test_a_seed_gives_the_same_first_state_on_any_mesh(sizes):
    layout = state_shardings(experiment(), mesh_of(sizes))
    first = functools.partial(init_state, experiment())
    make = jax.jit(first, out_shardings=layout, compiler_options=QUICKLY)
    assert_identical(make(), initial())


@functools.cache
def gradients_on_skewed_tokens(**changes):
    """Half of the tokens are one and the same, as in text: its gradient has a thousand terms."""
    e = experiment(**changes)
    random = np.random.default_rng(0)
    frequency = np.arange(1, VOCAB + 1.0) ** -2
    ids = random.choice(VOCAB, (16, 129), p=frequency / frequency.sum()).astype(np.int32)
    skewed = {
        "inputs": ids[:, :-1],
        "targets": ids[:, 1:],
        "segments": np.zeros_like(ids[:, 1:]),
        "weights": np.ones(ids[:, 1:].shape, np.float32),
    }

    def mean_loss(params):
        return loss_sums(e, params, skewed)[0] / skewed["weights"].sum()

    params = transformer.init_params(e.model, 0)
    return jax.device_get(jax.jit(jax.grad(mean_loss), compiler_options=QUICKLY)(params))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_every_gradient_in_bfloat16_is_near_that_in_float32(tied):
    half, full = (
        jax.tree_util.tree_flatten_with_path(
            gradients_on_skewed_tokens(tie_embeddings=tied, dtype=dtype)
        )[0]
        for dtype in ("bfloat16", "float32")
    )
    for (path, a), (_, b) in zip(half, full, strict=True):
        assert a.dtype == np.float32
        error = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert error < 0.03, (jax.tree_util.keystr(path), error)


def test_a_step_in_bfloat16_runs_on_the_cpu():
    state, metrics = compiled(ONE_DEVICE, dtype="bfloat16")(initial(), batch(0))
    _, expected = compiled(ONE_DEVICE)(initial(), batch(0))
    assert int(state.skipped) == 0
    assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-2)
    assert float(metrics["loss"]) != float(expected["loss"])


def test_the_parameters_and_their_moments_are_split_over_the_mesh():
    state, _ = compiled((1, 4, 2, 1))(initial(), batch(0))
    for tree in (state.params, state.optimizer[1].mu, state.optimizer[1].nu):
        gate = tree["layers"]["w_gate"]
        assert gate.addressable_shards[0].data.size == gate.size // 8


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_leaves_weights_and_moments_as_they_are(weight):
    step = compiled(ONE_DEVICE)
    bad = batch(1)
    bad["weights"][0, 0] = weight
    before = jax.device_get(step(initial(), batch(0))[0])
    after, metrics = step(before, bad)
    after = jax.device_get(after)
    assert not np.isfinite(metrics["loss"])
    assert (after.step, after.skipped, after.skipped_in_a_row) == (2, 1, 1)
    assert_identical((after.params, after.optimizer), (before.params, before.optimizer))

    again, _ = step(after, bad)
    again = jax.device_get(again)
    assert (again.step, again.skipped, again.skipped_in_a_row) == (3, 2, 2)


def test_after_a_skipped_update_training_goes_on_at_the_schedules_rate():
    step = compiled(ONE_DEVICE)
    bad = batch(1)
    bad["weights"][0, 0] = np.nan
    before = jax.device_get(step(initial(), batch(0))[0])
    skipped = jax.device_get(step(before, bad)[0])
    after, metrics = step(skipped, batch(2))
    assert int(after.skipped) == 1 and int(after.skipped_in_a_row) == 0
    assert float(metrics["lr"]) == pytest.approx(float(learning_rate(experiment())(2)))

    never_saw_it, same = step(before._replace(step=np.int32(2)), batch(2))
    assert_identical((after.params, after.optimizer), (never_saw_it.params, never_saw_it.optimizer))
    assert float(metrics["loss"]) == float(same["loss"])
    assert np.any(jax.device_get(after.params["embed"]) != before.params["embed"])


def test_the_request_to_stop_is_seen_whichever_device_has_it():
    mesh = mesh_of(ALL_AXES)
    step, layout = compiled(ALL_AXES), stop_flags(mesh, False).sharding
    state, metrics = step(initial(), batch(0))
    assert int(metrics["stop"]) == 0
    for device in range(8):
        flags = jax.device_put(np.eye(8, dtype=np.int32)[device], layout)
        state, metrics = step(state, batch(0), flags)
        assert int(metrics["stop"]) == 1
    assert int(step(state, batch(0), stop_flags(mesh, True))[1]["stop"]) == 1


@pytest.mark.parametrize(
    ("sizes", "changes", "axis"),
    [
        ((1, 1, 8, 1), {"num_heads": 4, "num_kv_heads": 4}, "tensor=8"),
        ((1, 8, 1, 1), {"d_model": 36}, "fsdp=8"),
    ],
)
def test_a_mesh_that_cannot_split_a_parameter_is_refused_by_name(sizes, changes, axis):
    model = dataclasses.replace(MODEL, **changes)
    shapes, axes = transformer.param_shapes(model), transformer.param_metadata(model, "axes")
    with pytest.raises(UserError, match=f"config.mesh.{axis} does not divide .* of parameter"):
        parallel.check_divisible(mesh_of(sizes), shapes, axes)
