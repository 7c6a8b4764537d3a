"""The train step: one jitted function from (state, batch) to (state, metrics), on any mesh.

The loss is a mean over the weighted tokens of the *global* batch, so it is the same whatever the
mesh and however the batch is accumulated.
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import DictKey, tree_flatten_with_path, tree_map_with_path

from sbp_jax import parallel
from sbp_jax.config import Experiment
from sbp_jax.model import transformer
from sbp_jax.model.loss import cross_entropy
from sbp_jax.training.optimizer import learning_rate, make_optimizer

Batch = dict[str, Any]  # inputs, targets, segments, weights: [B, T] each


class TrainState(NamedTuple):
    """Arrays; or, in a tree of the same shape, their shapes or their shardings."""

    step: Any  # number of batches seen
    skipped: Any  # updates left out because the gradient was not finite
    skipped_in_a_row: Any
    params: transformer.Params
    optimizer: Any


def init_state(experiment: Experiment, params: transformer.Params | None = None) -> TrainState:
    """The state before the first step; to be jitted with `state_shardings` as its output."""
    zero = jnp.zeros((), jnp.int32)
    if params is None:
        params = transformer.init_params(experiment.model, experiment.seed)
    return TrainState(zero, zero, zero, params, make_optimizer(experiment).init(params))


def state_shapes(experiment: Experiment) -> TrainState:
    return jax.eval_shape(lambda: init_state(experiment))


def state_shardings(experiment: Experiment, mesh: Mesh) -> TrainState:
    """A tree like the state. Optimizer moments, which sit under their parameter's name, lie as it
    does.
    """
    params = parallel.shardings(mesh, transformer.param_metadata(experiment.model, "axes"))
    replicated = NamedSharding(mesh, PartitionSpec())
    by_name = {
        names: sharding
        for path, sharding in tree_flatten_with_path(params)[0]
        if (names := _names(path))
    }

    def layout(path, _):
        names = _names(path)
        return next(
            (by_name[names[i:]] for i in range(len(names)) if names[i:] in by_name), replicated
        )

    optimizer = tree_map_with_path(layout, state_shapes(experiment).optimizer)
    return TrainState(replicated, replicated, replicated, params, optimizer)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(key.key for key in path if isinstance(key, DictKey))


def loss_sums(
    experiment: Experiment,
    params: transformer.Params,
    batch: Batch,
    z_loss: float = 0.0,
    dropout: jax.Array | None = None,
):
    """Sums over the batch's weighted tokens: cross-entropy, and z-loss times its coefficient."""
    model = experiment.model
    bound = transformer.bind(model, params)
    segments = batch["segments"] if experiment.data.document_mask else None
    hidden, _ = bound(batch["inputs"], segments, dropout=dropout)
    return cross_entropy(
        hidden,
        bound.output_matrix(),
        batch["targets"],
        batch["weights"],
        z_loss=z_loss,
        chunks=model.loss_chunks,
        logit_scale=bound.logit_scale,
    )


def train_step(experiment: Experiment, state: TrainState, batch: Batch, stop: jax.Array):
    """One update. `stop` holds a flag for each device: if one process asks, all see it."""
    tokens = jnp.maximum(batch["weights"].sum(), 1.0)

    def objective(params, part):
        ce, z = loss_sums(experiment, params, part[0], experiment.train.z_loss, part[1])
        return (ce + z) / tokens, ce / tokens

    keys = _dropout_keys(experiment, state.step) if experiment.model.dropout else None
    loss, gradient = accumulated(experiment, objective, state.params, (batch, keys))
    state, metrics = updated(experiment, state, loss, gradient)
    return state, {"loss": loss, **metrics, "stop": stop.max()}


def accumulated(experiment: Experiment, objective: Callable, params: Any, batch: Any) -> Any:
    """What the objective tells beside its value, and its gradient: sums over the batch's parts."""
    gradient = jax.value_and_grad(objective, has_aux=True)
    if experiment.train.accumulate == 1:
        (_, told), grads = gradient(params, batch)
        return told, grads
    # Row r goes to part r % accumulate: a batch split over devices stays evenly split in each part.
    parts = jax.tree.map(lambda x: _strided(x, experiment.train.accumulate), batch)

    def add(total, part):
        (_, told), grads = gradient(params, part)
        return jax.tree.map(jnp.add, total, (told, grads)), None

    _, told = jax.eval_shape(objective, params, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (told, params))
    return jax.lax.scan(add, zeros, parts)[0]


def updated(
    experiment: Experiment, state: TrainState, loss: jax.Array, gradient: Any
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The state after an update, which is left out if loss or gradient are not finite."""
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(norm) & jnp.isfinite(loss)
    rate = learning_rate(experiment)(state.step)
    params, optimizer = apply_gradient(experiment, state, gradient, rate, finite)
    bad = (~finite).astype(jnp.int32)
    skipped, in_a_row = state.skipped + bad, (state.skipped_in_a_row + bad) * bad
    metrics = {"grad_norm": norm, "lr": rate, "skipped": skipped, "skipped_in_a_row": in_a_row}
    return TrainState(state.step + 1, skipped, in_a_row, params, optimizer), metrics


def apply_gradient(
    experiment: Experiment, state: TrainState, gradient, rate: jax.Array, finite: jax.Array
):
    """Parameters and moments after one step of the optimizer; as they are, if not `finite`."""

    def update():
        updates, moments = make_optimizer(experiment).update(
            gradient, state.optimizer, state.params
        )
        return jax.tree.map(lambda p, u: p + rate * u, state.params, updates), moments

    # A branch, not a choice between results: that would keep the old state beside the new.
    return jax.lax.cond(finite, update, lambda: (state.params, state.optimizer))


def _dropout_keys(experiment: Experiment, step: jax.Array) -> jax.Array:
    """One for each row of the batch."""
    key = jax.random.fold_in(jax.random.key(experiment.seed), zlib.crc32(b"dropout"))
    key = jax.random.fold_in(key, step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(experiment.train.batch_size))


def _strided(x: jax.Array, parts: int) -> jax.Array:
    x = jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)
    return parallel.constrain(x, None, "batch", *["time"] * (x.ndim - 2))


def eval_step(experiment: Experiment, params: transformer.Params, batch: Batch) -> jax.Array:
    """[sum of cross-entropy, number of tokens]"""
    ce, _ = loss_sums(experiment, params, batch)
    return jnp.stack([ce, batch["weights"].sum()])


def batch_shapes(experiment: Experiment) -> Batch:
    shape = (experiment.train.batch_size, experiment.data.sequence_length)
    names = {
        "inputs": jnp.int32,
        "targets": jnp.int32,
        "segments": jnp.int32,
        "weights": jnp.float32,
    }
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, dtype in names.items()}


def stop_flags(mesh: Mesh, flag: bool) -> jax.Array:
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    local = np.full((mesh.size,), flag, np.int32)
    return jax.make_array_from_callback(local.shape, sharding, lambda index: local[index])


def trace_train_step(experiment: Experiment, mesh: Mesh) -> jax.stages.Traced:
    """The step traced for a mesh, whose devices need not be on this machine."""
    shardings = state_shardings(experiment, mesh)
    batch = jax.tree.map(lambda _: parallel.batch_sharding(mesh), batch_shapes(experiment))
    flags = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    replicated = NamedSharding(mesh, PartitionSpec())
    step = jax.jit(
        lambda state, batch, stop: train_step(experiment, state, batch, stop),
        in_shardings=(shardings, batch, flags),
        out_shardings=(shardings, replicated),
        donate_argnums=0,
    )
    with jax.set_mesh(mesh):
        return step.trace(
            state_shapes(experiment),
            batch_shapes(experiment),
            jax.ShapeDtypeStruct((mesh.size,), jnp.int32),
        )
