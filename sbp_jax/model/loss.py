"""Next-token cross-entropy in float32, for a part of the sequence at a time where logits are many.

At 4,096 x 49,152 the logits of one sequence take 0.8 GB, and the backward pass wants them again. In
`chunks` they are computed in pieces, forward and backward; each piece sums the head's gradient over
all devices, so take no more of them than memory asks for.
"""

import jax
import jax.numpy as jnp

from sbp_jax.parallel import platform


def cross_entropy(
    hidden: jax.Array,  # [B, T, D] in the compute dtype
    head: jax.Array,  # [D, V]; tied embeddings are passed transposed
    targets: jax.Array,  # [B, T] ints
    weights: jax.Array,  # [B, T]; 0 leaves a token out
    *,
    z_loss: float,
    chunks: int,
    logit_scale: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Weighted sums over tokens, not divided: of the cross-entropy, and of z_loss * log(Z)^2.

    Pass the head in float32: it is cast to the compute dtype in each chunk, so that its gradient is
    summed over the chunks in float32.
    """
    if chunks == 1:
        return _sums(hidden, head, targets, weights, z_loss, logit_scale)

    def add(totals, chunk):
        chunk_hidden, chunk_targets, chunk_weights = chunk
        sums = jax.checkpoint(_sums)(
            chunk_hidden, head, chunk_targets, chunk_weights, z_loss, logit_scale
        )
        return jax.tree.map(jnp.add, totals, sums), None

    zero = jnp.zeros((), jnp.float32)
    parts = tuple(_strided(x, chunks) for x in (hidden, targets, weights))
    totals, _ = jax.lax.scan(add, (zero, zero), parts)
    return totals


def log_probabilities(
    hidden: jax.Array,  # [B, T, D]
    head: jax.Array,  # [D, V]
    targets: jax.Array,  # [B, T]
    *,
    chunks: int,
    logit_scale: float = 1.0,
    temperature: float = 1.0,
    vocab: int,
) -> tuple[jax.Array, jax.Array]:
    """Of the targets, [B, T]: as they are drawn, at a temperature and of the first `vocab` ids
    alone; and in the model's own distribution.
    """

    @jax.checkpoint
    def of_chunk(chunk):
        hidden, targets = chunk
        logits = project(hidden, head) * logit_scale
        label = _of_label(logits, targets)
        drawn = jnp.where(jnp.arange(logits.shape[-1]) < vocab, logits / temperature, -jnp.inf)
        own = label - jax.nn.logsumexp(logits, axis=-1)
        return label / temperature - jax.nn.logsumexp(drawn, axis=-1), own

    if chunks == 1:
        return of_chunk((hidden, targets))
    found = jax.lax.map(of_chunk, (_strided(hidden, chunks), _strided(targets, chunks)))
    drawn, own = (jnp.moveaxis(x, 0, 2).reshape(targets.shape) for x in found)
    return drawn, own


def _strided(x: jax.Array, chunks: int) -> jax.Array:
    """Position t goes to chunk t % chunks: where devices split the time, each chunk stays split."""
    batch, length = x.shape[:2]
    if length % chunks:
        raise ValueError(
            f"model.loss_chunks={chunks} does not divide data.sequence_length={length}"
        )
    return jnp.moveaxis(x.reshape(batch, length // chunks, chunks, *x.shape[2:]), 2, 0)


def _sums(hidden, head, targets, weights, z_loss, logit_scale):
    logits = project(hidden, head) * logit_scale
    log_z = jax.nn.logsumexp(logits, axis=-1)
    weights = weights.astype(jnp.float32)
    loss = (weights * (log_z - _of_label(logits, targets))).sum()
    return loss, z_loss * (weights * log_z**2).sum()


def _of_label(logits: jax.Array, targets: jax.Array) -> jax.Array:
    # Not a gather: the vocabulary may be split over devices, and a gather's gradient is a scatter.
    is_label = jnp.arange(logits.shape[-1]) == targets[..., None]
    return jnp.where(is_label, logits, 0).sum(-1)


@jax.custom_vjp
def project(hidden: jax.Array, head: jax.Array) -> jax.Array:
    """float32 logits of half-precision factors, whose gradients are half-precision matmuls as well.

    Left to itself, the float32 gradient of the logits would make both backward matmuls float32.
    """
    return _matmul("btd,dv->btv", hidden, head.astype(hidden.dtype))


def _project_forward(hidden, head):
    return project(hidden, head), (hidden, head)


def _project_backward(residuals, gradient):
    hidden, head = residuals
    gradient = gradient.astype(hidden.dtype)
    to_hidden = _matmul("btv,dv->btd", gradient, head.astype(hidden.dtype))
    to_head = _matmul("btd,btv->dv", hidden, gradient)
    return to_hidden.astype(hidden.dtype), to_head.astype(head.dtype)


project.defvjp(_project_forward, _project_backward)


def _matmul(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    if platform() == "cpu":  # which has no such product of half-precision factors
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)
