"""The chunked loss is the plain one, in values, gradients and everything but memory."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from sbp_jax.model.loss import cross_entropy


def inputs(batch=2, length=12, width=8, vocab=31, seed=0, dtype=jnp.float32):
    random = np.random.default_rng(seed)
    hidden = jnp.asarray(random.normal(size=(batch, length, width)), dtype)
    head = jnp.asarray(random.normal(size=(width, vocab)), jnp.float32)
    targets = jnp.asarray(random.integers(vocab, size=(batch, length)), jnp.int32)
    weights = jnp.asarray(random.choice([0, 1, 0.5], size=(batch, length)), jnp.float32)
    return hidden, head, targets, weights


def reference(hidden, head, targets, weights, z_loss, logit_scale=1.0):
    logits = hidden.astype(jnp.float32) @ head * logit_scale
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    log_z = jax.nn.logsumexp(logits, -1)
    return (losses * weights).sum(), (z_loss * log_z**2 * weights).sum()


def total(function, *args, **kwargs):
    """Both sums, weighed differently so that neither gradient can stand in for the other."""
    loss, z = function(*args, **kwargs)
    return loss + 2 * z


@functools.partial(jax.jit, static_argnums=0)
def sums_and_gradients(function, hidden, head, *rest):
    gradients = jax.grad(functools.partial(total, function), (0, 1))(hidden, head, *rest)
    return function(hidden, head, *rest), gradients


def chunked(chunks):
    return lambda *args: cross_entropy(
        *args[:4], z_loss=args[4], chunks=chunks, logit_scale=args[5]
    )


CHUNKED = {chunks: chunked(chunks) for chunks in (1, 2, 3, 12)}


@settings(max_examples=30)
@given(
    chunks=st.sampled_from(sorted(CHUNKED)),
    z_loss=st.sampled_from([0.0, 1e-2, 1.0]),
    logit_scale=st.sampled_from([1.0, 0.25]),
    seed=st.integers(0, 2**16),
)
def test_any_number_of_chunks_gives_optax_values_and_gradients(chunks, z_loss, logit_scale, seed):
    args = *inputs(seed=seed), z_loss, logit_scale
    actual = sums_and_gradients(CHUNKED[chunks], *args)
    expected = sums_and_gradients(reference, *args)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5 * float(jnp.abs(e).max()))


@pytest.mark.parametrize("chunks", [1, 3])
def test_tokens_of_weight_zero_do_not_count(chunks):
    hidden, head, targets, weights = inputs()

    def loss(hidden, targets):
        return total(cross_entropy, hidden, head, targets, weights, z_loss=0.1, chunks=chunks)

    left_out = weights == 0
    other = jnp.where(left_out, (targets + 1) % head.shape[1], targets)
    assert loss(hidden, other) == loss(hidden, targets)
    gradient = np.abs(jax.grad(loss)(hidden, targets)).max(-1)
    assert np.array_equal(gradient == 0, left_out)


@pytest.mark.parametrize("chunks", [1, 4])
def test_half_precision_activations_give_a_float32_loss_and_head_gradient(chunks):
    hidden, head, targets, weights = inputs(dtype=jnp.bfloat16, vocab=300)
    loss = functools.partial(total, cross_entropy, z_loss=1e-2, chunks=chunks)
    value, (to_hidden, to_head) = jax.value_and_grad(loss, (0, 1))(hidden, head, targets, weights)
    assert value.dtype == to_head.dtype == jnp.float32 and to_hidden.dtype == jnp.bfloat16

    rounded = head.astype(jnp.bfloat16).astype(jnp.float32)
    plain = functools.partial(total, reference, z_loss=1e-2)
    expected, (plain_to_hidden, plain_to_head) = jax.value_and_grad(plain, (0, 1))(
        hidden.astype(jnp.float32), rounded, targets, weights
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for a, e in ((to_hidden, plain_to_hidden), (to_head, plain_to_head)):
        assert jnp.abs(a.astype(jnp.float32) - e).max() < 2**-7 * jnp.abs(e).max()


def test_large_logits_do_not_overflow():
    hidden, head, targets, weights = inputs()
    loss, z = cross_entropy(1e4 * hidden, head, targets, weights, z_loss=1e-4, chunks=2)
    assert jnp.isfinite(loss) and jnp.isfinite(z)


def test_memory_falls_with_the_number_of_chunks():
    hidden, head, targets, weights = inputs(batch=2, length=64, width=16, vocab=20_000)

    def temporary_bytes(chunks):
        loss = functools.partial(total, cross_entropy, z_loss=1e-4, chunks=chunks)
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(hidden, head, targets, weights).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 2 * 64 * 20_000 * 4
    assert temporary_bytes(1) >= logits
    assert temporary_bytes(4) < 0.6 * temporary_bytes(1)
    assert temporary_bytes(16) < 0.6 * logits


def test_tied_embeddings_are_passed_transposed():
    hidden, head, targets, weights = inputs()
    embedding = head.T

    def loss(embedding):
        return total(cross_entropy, hidden, embedding.T, targets, weights, z_loss=0.1, chunks=3)

    expected = jax.grad(lambda head: total(reference, hidden, head, targets, weights, 0.1))(head)
    np.testing.assert_allclose(jax.grad(loss)(embedding), expected.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunks", [1, 4])
def test_a_split_vocabulary_and_a_split_sequence_give_the_same(chunks):
    mesh = jax.make_mesh(
        (1, 2, 2, 2), ("replica", "fsdp", "tensor", "context"), axis_types=(AxisType.Auto,) * 4
    )
    args = inputs(length=16, vocab=64)
    loss = functools.partial(total, cross_entropy, z_loss=0.1, chunks=chunks)
    expected = jax.value_and_grad(loss, (0, 1))(*args)
    time = P("fsdp", "context")
    with jax.set_mesh(mesh):
        split = [
            jax.device_put(x, s)
            for x, s in zip(args, (time, P("fsdp", "tensor"), time, time), strict=True)
        ]
        actual = jax.jit(jax.value_and_grad(loss, (0, 1)))(*split)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)


def test_chunks_that_do_not_divide_the_sequence_are_refused():
    with pytest.raises(ValueError, match="loss_chunks=5 does not divide data.sequence_length=12"):
        cross_entropy(*inputs(), z_loss=0.0, chunks=5)
