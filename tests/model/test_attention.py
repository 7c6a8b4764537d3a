"""Every backend against one reference: values, gradients, and above all what must not leak.

Pallas kernels run in interpret mode; cuDNN, which has none, is only lowered.
"""

import contextlib
import functools
import math

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from sbp_jax.errors import UserError
from sbp_jax.model.attention import attention, cached_attention, choose_backend

KERNELS = ["xla", "splash", "triton"]
# Triton takes half precision only; the reference gets the same rounded inputs.
DTYPE = {"xla": jnp.float32, "splash": jnp.float32, "triton": jnp.float16}
# Of the largest value: float16 has 11 bits, and probabilities are rounded to it before the matmul.
TOLERANCE = {"xla": 1e-5, "splash": 2e-5, "triton": 4e-3}
LENGTH = {"xla": 128, "splash": 256, "triton": 64}


def inputs(length, heads=4, kv_heads=2, width=32, dtype=jnp.float32, batch=2):
    random = np.random.default_rng(0)
    counts = (heads, kv_heads, kv_heads, heads)
    return [random.normal(size=(batch, length, n, width)).astype(dtype) for n in counts]


def make_mesh(*shape):
    axes = ("replica", "fsdp", "tensor", "context")
    return jax.make_mesh(
        shape, axes, axis_types=(AxisType.Auto,) * 4, devices=jax.devices()[: math.prod(shape)]
    )


def two_documents(length, batch=2):
    """Documents of unequal lengths, other ones in each row."""
    borders = length // 3 + 5 * np.arange(batch)[:, None]
    return (np.arange(length) >= borders).astype(np.int32)


def reference(q, k, v, segments):
    """As one would write it on paper, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    group = q.shape[2] // k.shape[2]
    for b, t, n in np.ndindex(q.shape[:3]):
        seen = np.arange(k.shape[1]) <= t
        if segments is not None:
            seen &= segments[b] == segments[b, t]
        scores = k[b, seen, n // group] @ q[b, t, n] / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights / weights.sum() @ v[b, seen, n // group]
    return out


@jax.jit
def dense(q, k, v, segments):
    """The reference as a differentiable expression; the two are compared with each other below."""
    group = q.shape[2] // k.shape[2]
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    scores = jnp.einsum("btkgd,bskd->bkgts", q.reshape(*k.shape[:3], group, -1), k)
    mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None]
    if segments is not None:
        mask = mask & (segments[:, :, None] == segments[:, None])
    scores = jnp.where(mask[:, None, None], scores / q.shape[-1] ** 0.5, -jnp.inf)
    return jnp.einsum("bkgts,bskd->btkgd", jax.nn.softmax(scores), v).reshape(q.shape)


@functools.partial(jax.jit, static_argnums=0)
def run(backend, q, k, v, segments):
    return attention(
        q,
        k,
        v,
        q_segments=segments,
        kv_segments=segments,
        backend=backend,
        interpret=backend in ("splash", "triton"),
    )


@functools.partial(jax.jit, static_argnums=0)
def value_and_pullback(backend, q, k, v, segments, cotangent):
    """The output, and the gradients of its product with a cotangent: what most tests look at."""
    attend = dense if backend == "dense" else functools.partial(run, backend)
    out, pull = jax.vjp(lambda *qkv: attend(*qkv, segments).astype(jnp.float32), q, k, v)
    return out, pull(cotangent.astype(jnp.float32))


def assert_close(actual, expected, tolerance):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def test_the_dense_expression_is_the_definition():
    q, k, v, _ = inputs(24)
    for segments in (None, two_documents(24)):
        assert_close(dense(q, k, v, segments), reference(q, k, v, segments), 1e-6)


@pytest.mark.parametrize("masked", [True, False], ids=["documents", "causal"])
@pytest.mark.parametrize("backend", KERNELS)
def test_values_and_gradients_equal_the_reference(backend, masked):
    q, k, v, cotangent = inputs(LENGTH[backend], dtype=DTYPE[backend])
    segments = two_documents(LENGTH[backend]) if masked else None

    actual = value_and_pullback(backend, q, k, v, segments, cotangent)
    expected = value_and_pullback("dense", q, k, v, segments, cotangent)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_close(a, e, TOLERANCE[backend])


@pytest.mark.parametrize("kv_heads", [1, 4], ids=["one_kv_head", "as_many_kv_heads"])
@pytest.mark.parametrize("backend", KERNELS)
def test_every_grouping_of_heads_works(backend, kv_heads):
    q, k, v, _ = inputs(LENGTH[backend], kv_heads=kv_heads, dtype=DTYPE[backend])
    assert_close(run(backend, q, k, v, None), dense(q, k, v, None), TOLERANCE[backend])


@pytest.mark.parametrize("length", [1, 7, 30, 129])
def test_xla_takes_any_length(length):
    q, k, v, _ = inputs(length)
    segments = two_documents(length)
    assert_close(run("xla", q, k, v, segments), dense(q, k, v, segments), 1e-5)


@pytest.mark.parametrize(
    ("backend", "length", "reason"),
    [("splash", 200, "multiple of 128"), ("triton", 72, "multiple of 16")],
)
def test_a_length_that_a_kernel_cannot_take_is_refused(backend, length, reason):
    q, k, v, _ = inputs(length, dtype=DTYPE[backend])
    with pytest.raises(UserError, match=rf"{length}.*{reason}.*model.attention=auto"):
        run(backend, q, k, v, None)


@pytest.mark.parametrize("backend", KERNELS)
def test_no_gradient_leaks_from_one_document_into_another(backend):
    q, k, v, cotangent = inputs(LENGTH[backend], dtype=DTYPE[backend])
    segments = two_documents(LENGTH[backend])

    for document in (0, 1):
        own = (segments == document)[..., None, None]
        chosen = np.where(own, cotangent, 0).astype(cotangent.dtype)
        _, gradients = value_and_pullback(backend, q, k, v, segments, chosen)
        for gradient in map(np.asarray, gradients):
            assert np.all(gradient[~np.broadcast_to(own, gradient.shape)] == 0)
            assert np.all(np.abs(gradient).max(axis=(1, 2, 3)) > 0)


@pytest.mark.parametrize("masked", [True, False], ids=["documents", "causal"])
@pytest.mark.parametrize("backend", KERNELS)
def test_the_future_gets_no_gradient(backend, masked):
    length = LENGTH[backend]
    q, k, v, cotangent = inputs(length, dtype=DTYPE[backend])
    segments = two_documents(length) if masked else None
    t = length // 2
    cotangent[:, np.arange(length) != t] = 0
    _, (_, *gradients) = value_and_pullback(backend, q, k, v, segments, cotangent)
    for gradient in map(np.asarray, gradients):
        assert np.all(gradient[:, t + 1 :] == 0)
        assert np.any(gradient[:, t] != 0)


@pytest.mark.parametrize("backend", KERNELS)
def test_a_document_alone_gives_what_it_gives_in_a_packed_row(backend):
    length = LENGTH[backend]
    q, k, v, _ = inputs(length, dtype=DTYPE[backend], batch=1)
    start = length // 2
    segments = (np.arange(length) >= start).astype(np.int32)[None]
    packed = run(backend, q, k, v, segments)[:, start:]
    alone = run(backend, q[:, start:], k[:, start:], v[:, start:], None)
    assert_close(packed, alone, TOLERANCE[backend])


def test_cached_decoding_equals_the_whole_sequence():
    q, k, v, _ = inputs(12)
    whole = dense(q, k, v, None)
    borders = [0, 5, 12, 20]  # of the pieces; slots beyond the sequence hold garbage
    k, v = (np.pad(x, ((0, 0), (0, 20 - 12), (0, 0), (0, 0)), constant_values=99) for x in (k, v))
    parts = [slice(*pair) for pair in zip(borders, borders[1:], strict=False)]
    pieces = [(k[:, p].transpose(0, 2, 3, 1), v[:, p].swapaxes(1, 2)) for p in parts]

    @jax.jit
    def decode(q, t):
        visible = [
            jnp.broadcast_to(jnp.arange(p.start, p.stop) <= t, (2, p.stop - p.start)) for p in parts
        ]
        return cached_attention(q, pieces, visible)

    for t in range(12):
        assert_close(decode(q[:, t : t + 1], t), whole[:, t : t + 1], 1e-5)


def test_segments_of_the_queries_alone_are_refused():
    q, k, v, _ = inputs(16)
    with pytest.raises(ValueError, match="together"):
        attention(q, k, v, q_segments=two_documents(16))


@pytest.mark.parametrize("shape", [(1, 2, 2, 2), (2, 1, 1, 4)])
def test_splash_on_a_mesh_equals_one_device(shape):
    mesh = make_mesh(*shape)
    q, k, v, cotangent = inputs(128 * shape[3], width=16, batch=4)
    segments = two_documents(q.shape[1], batch=4)

    expected = value_and_pullback("dense", q, k, v, segments, cotangent)
    with jax.set_mesh(mesh):
        q = jax.device_put(q, P(("replica", "fsdp"), "context", "tensor"))
        actual = value_and_pullback("splash", q, k, v, segments, cotangent)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_close(a, e, 2e-5)
    assert actual[0].sharding.shard_shape(q.shape)[1] == 128


def test_xla_on_a_mesh_equals_one_device():
    mesh = make_mesh(1, 2, 2, 2)
    q, k, v, _ = inputs(32, batch=4)
    segments = two_documents(32, batch=4)
    with jax.set_mesh(mesh):
        q_split = jax.device_put(q, P(("replica", "fsdp"), "context", "tensor"))
        out = jax.jit(lambda *qkv: run("auto", *qkv, segments))(q_split, k, v)
    assert_close(out, dense(q, k, v, segments), 1e-5)


def test_triton_on_a_mesh_equals_one_device():
    mesh = make_mesh(2, 2, 2, 1)
    q, k, v, _ = inputs(32, batch=4, dtype=jnp.float16)
    segments = two_documents(32, batch=4)
    for masked in (segments, None):
        with jax.set_mesh(mesh):
            out = jax.jit(lambda *qkv, m=masked: run("triton", *qkv, m))(q, k, v)
        assert_close(out, dense(q, k, v, masked), 4e-3)


def test_heads_that_the_tensor_axis_does_not_divide_are_refused():
    mesh = make_mesh(1, 2, 4, 1)
    q, k, v, _ = inputs(128)
    with jax.set_mesh(mesh), pytest.raises(UserError, match="num_kv_heads=2.*mesh.tensor=4"):
        jax.jit(lambda *qkv: run("splash", *qkv, None))(q, k, v)


@pytest.mark.parametrize(
    ("platform", "masked", "call"),
    [
        ("gpu", True, "mha_backward"),
        ("gpu", False, "fmha"),
        ("tpu", True, "tpu_custom_call"),
        ("tpu", False, "tpu_custom_call"),
    ],
)
def test_kernels_lower_for_an_accelerator_that_is_not_here(platform, masked, call, monkeypatch):
    if call == "fmha":  # tracing asks the installed cuDNN for its version
        monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    q, k, v, _ = inputs(256, width=128, dtype=jnp.bfloat16)
    segments = two_documents(256) if masked else None

    def loss(q, k, v):
        masks = {"q_segments": segments, "kv_segments": segments}
        return attention(q, k, v, **masks, platform=platform).astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, v)
    target = {"gpu": "cuda", "tpu": "tpu"}[platform]
    assert call in traced.lower(lowering_platforms=(target,)).as_text()


@pytest.mark.parametrize("meshed", [False, True], ids=["alone", "on_a_mesh"])
def test_saving_the_context_saves_splash_its_second_forward_pass(meshed, capsys):
    q, k, v, _ = inputs(128)

    def residuals(names):
        policy = jax.checkpoint_policies.save_only_these_names(*names)
        layer = jax.checkpoint(lambda *qkv: run("splash", *qkv, None), policy=policy)
        with jax.set_mesh(make_mesh(2, 1, 2, 1)) if meshed else contextlib.nullcontext():
            jax.ad_checkpoint.print_saved_residuals(lambda *qkv: layer(*qkv).sum(), q, k, v)
        return capsys.readouterr().out

    # Devices' pieces are listed side by side: four of one row and two heads each.
    log_sum_exp = "f32[4,2,128]" if meshed else "f32[2,4,128]"
    output = "f32[4,2,128,32]" if meshed else "f32[2,4,128,32]"
    assert log_sum_exp in residuals(["context"]) and output in residuals(["context"])
    assert log_sum_exp not in residuals(["query"]) and output not in residuals(["query"])


A100 = {"platform": "gpu", "dtype": jnp.bfloat16, "length": 4096}
TPU = {"platform": "tpu", "dtype": jnp.bfloat16, "length": 4096}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"platform": "cpu", "dtype": jnp.float32, "length": 128, "segments": True}, "xla"),
        (TPU | {"segments": True}, "splash"),
        (TPU | {"segments": False, "context": 8}, "splash"),
        (TPU | {"segments": False, "context": 64}, "xla"),
        (TPU | {"segments": True, "length": 100}, "xla"),
        (A100 | {"segments": False}, "cudnn"),
        (A100 | {"segments": True}, "triton"),
        (A100 | {"segments": True, "length": 4097}, "xla"),
        (A100 | {"segments": True, "context": 2}, "xla"),
        (A100 | {"segments": False, "context": 2}, "xla"),
        (A100 | {"segments": True, "dtype": jnp.float32}, "xla"),
        (A100 | {"segments": False, "dtype": jnp.float32}, "xla"),
    ],
)
def test_auto_picks_the_best_kernel_that_honours_what_it_is_given(case, expected):
    assert choose_backend("auto", **case) == expected


@pytest.mark.parametrize(
    ("backend", "case", "reason"),
    [
        ("cudnn", A100 | {"segments": True}, "cudnn has no document mask"),
        (
            "cudnn",
            A100 | {"segments": False, "dtype": jnp.float32},
            "half precision, not in float32",
        ),
        (
            "triton",
            A100 | {"segments": True, "context": 2},
            r"split the sequence \(mesh.context=2\)",
        ),
        ("splash", A100 | {"segments": True}, "splash does not run on gpu"),
        ("flash", A100 | {"segments": True}, "'flash' is not known.*splash"),
    ],
)
def test_a_backend_that_cannot_do_what_is_asked_is_refused(backend, case, reason):
    with pytest.raises(UserError, match=reason):
        choose_backend(backend, **case)
