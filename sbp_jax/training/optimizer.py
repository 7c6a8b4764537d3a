"""The optimizer: clipping, AdamW or Muon, decoupled decay, and the learning rate of each parameter.

The chain yields updates for a rate of one; the step multiplies them by `learning_rate(step)`, so
that a skipped update does not delay the schedule.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from optax.contrib import MuonDimensionNumbers as Matrix

from sbp_jax.config import Experiment, ModelConfig
from sbp_jax.config_rules import duration
from sbp_jax.model import transformer


def learning_rate(experiment: Experiment) -> Callable[[jax.Array], jax.Array]:
    """The rate of each step, from linear warm-up to the last step, where it is `final_lr`."""
    o, steps = experiment.optimizer, experiment.num_steps
    warmup = duration(o.warmup, experiment)
    decay = duration(o.decay, experiment) if o.schedule == "wsd" else steps - warmup

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        rising = (step + 1) / max(warmup, 1)
        done = jnp.clip((step - (steps - decay) + 1) / max(decay, 1), 0.0, 1.0)
        falling = {
            "cosine": 0.5 * (1 + jnp.cos(jnp.pi * done)),
            "wsd": 1 - done,
            "constant": jnp.ones_like(done),
        }[o.schedule]
        after = o.final_lr + (o.peak_lr - o.final_lr) * falling
        return jnp.where(step < warmup, o.peak_lr * rising, after)

    return rate


def make_optimizer(experiment: Experiment) -> optax.GradientTransformation:
    """Updates for a rate of one; see the module's docstring."""
    o, m = experiment.optimizer, experiment.model
    roles = transformer.param_metadata(m, "role")
    decayed = jax.tree.map(lambda role: role in ("matrix", "head"), roles)
    adam = optax.scale_by_adam(b1=o.beta1, b2=o.beta2, eps=o.eps)
    rates = {"matrix": m.mup_base_width / m.d_model if m.parametrization == "mup_simple" else 1.0}
    direction = adam
    if o.name == "muon":
        labels = jax.tree.map(lambda role: "muon" if role == "matrix" else "adam", roles)
        direction = optax.partition({"adam": adam, "muon": _muon(m, o.muon_beta)}, labels)
        # Whatever the parametrization: orthogonal updates transfer across widths as they are.
        rates["matrix"] = o.muon_lr / o.peak_lr

    def at_rates(updates, params):
        return jax.tree.map(lambda u, role: -rates.get(role, 1.0) * u, updates, roles)

    return optax.chain(
        optax.clip_by_global_norm(o.clip_norm) if o.clip_norm else optax.identity(),
        direction,
        optax.add_decayed_weights(o.weight_decay, mask=decayed),
        optax.stateless(at_rates),
    )


def _muon(model: ModelConfig, beta: float) -> optax.GradientTransformation:
    """Orthogonalised momentum for each layer's matrices, scaled by the square root of outputs per
    input where there are more of them.
    """
    axes, roles = (transformer.param_metadata(model, name) for name in ("axes", "role"))

    def matrix(axes: tuple[str, ...], role: str) -> Matrix | optax.MaskedNode:
        if role != "matrix":
            return optax.MaskedNode()
        width = (axes.index("width"),)
        others = tuple(i for i, axis in enumerate(axes) if axis not in ("layers", "width"))
        inputs, outputs = (width, others) if width[0] == 1 else (others, width)
        return Matrix(reduction_axis=inputs, output_axis=outputs)

    def scaled(update: jax.Array, matrix: Matrix) -> jax.Array:
        inputs, outputs = (
            math.prod(update.shape[i] for i in axes)
            for axes in (matrix.reduction_axis, matrix.output_axis)
        )
        return update * max(1.0, outputs / inputs) ** 0.5

    matrices = jax.tree.map(matrix, axes, roles, is_leaf=lambda x: isinstance(x, tuple))
    return optax.chain(
        optax.contrib.scale_by_muon(beta=beta, weight_dimension_numbers=matrices),
        optax.stateless(lambda updates, _: jax.tree.map(scaled, updates, matrices)),
    )
