"""Causal attention with document masks: one function, and for each kind of hardware its kernel.

A kernel that cannot honour a mask computes something plausible instead, and no loss curve shows it.
So a backend honours what it is given or is refused, and the choice is logged once.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sbp_jax import parallel
from sbp_jax.errors import UserError

# In the order of preference; xla comes last everywhere, for it can do everything.
KERNELS = {"cpu": ("xla",), "tpu": ("splash", "xla"), "gpu": ("cudnn", "triton", "xla")}
BACKENDS = ("xla", "splash", "cudnn", "triton")
CONTEXT = "context"  # checkpoint_name of the result (and of what else splash's backward pass needs)
BATCH = ("replica", "fsdp")  # the mesh axes that split the batch
LANES = 128  # splash works on blocks that are multiples of this
CAUSAL_BLOCKS = 4  # see _xla


class Seen(NamedTuple):
    """What a token sees, beside that it looks back only; nothing said is all."""

    segments: jax.Array | None = None  # [B, T] int32: equal ones see each other
    ends: jax.Array | None = None  # [B, T] int32: the first place that does not see this one


def attention(
    q: jax.Array,  # [B, T, H, h]
    k: jax.Array,  # [B, T, K, h], H a multiple of K
    v: jax.Array,  # [B, T, K, h]
    *,
    q_segments: jax.Array | None = None,  # [B, T] int32
    kv_segments: jax.Array | None = None,  # [B, T]
    kv_ends: jax.Array | None = None,  # [B, T], see `Seen`
    backend: str = "auto",
    platform: str | None = None,
    interpret: bool = False,
) -> jax.Array:
    """[B, T, H, h], split over the ambient mesh (`jax.set_mesh`) if there is one.

    Only equal segments see each other; a query sees keys at its own place and before. The result is
    named `CONTEXT`, for rematerialisation policies. `platform` is what it is compiled for, by
    default what the mesh is made of; `interpret` runs a Pallas kernel on the CPU, for tests.
    """
    if (q_segments is None) != (kv_segments is None):
        raise ValueError("attention: q_segments and kv_segments must be given together")
    mesh = jax.sharding.get_abstract_mesh()
    if platform is None:
        platform = parallel.platform()
    context = mesh.shape.get("context", 1)
    chosen = choose_backend(
        backend,
        platform=platform,
        length=q.shape[1],
        dtype=q.dtype,
        segments=q_segments is not None,
        ends=kv_ends is not None,
        context=context,
        interpret=interpret,
    )
    if chosen == "splash":
        return _splash(q, k, v, q_segments, kv_segments, mesh, interpret)
    if chosen == "cudnn":
        cudnn = functools.partial(
            jax.nn.dot_product_attention, is_causal=True, implementation="cudnn"
        )
        y = _on_mesh(cudnn, mesh, q, k, v)
    elif chosen == "triton":
        y = _on_mesh(functools.partial(_triton, interpret=interpret), mesh, q, k, v, q_segments)
    else:
        blocks = math.gcd(q.shape[1], min(CAUSAL_BLOCKS, max(q.shape[1] // 64, 1)))
        if context > 1:
            blocks = 1
        y = _xla(q, k, v, q_segments, kv_segments, kv_ends, blocks)
    return checkpoint_name(y, CONTEXT)


def cached_attention(
    q: jax.Array,  # [B, T, H, h]
    pieces: Sequence[tuple[jax.Array, jax.Array]],  # keys [B, K, h, S] and values [B, K, S, h]
    visible: Sequence[jax.Array],  # [B, S], for each piece
) -> jax.Array:
    """[B, T, H, h]: each token sees what is visible of all pieces (model/cache.py).

    The queries of a key head are rows of one matmul with it, so a cache is read once as it lies.
    """
    batch, length, heads, width = q.shape
    kv_heads = pieces[0][0].shape[1]
    q = q.reshape(batch, length, kv_heads, -1, width).transpose(0, 2, 1, 3, 4)
    logits = [
        jnp.where(
            seen[:, None, None, None],
            jnp.einsum("bktgh,bkhs->bktgs", q, k, preferred_element_type=jnp.float32) * width**-0.5,
            jnp.finfo(jnp.float32).min,
        )
        for (k, _), seen in zip(pieces, visible, strict=True)
    ]
    top = functools.reduce(jnp.maximum, [x.max(-1, keepdims=True) for x in logits])
    weights = [jnp.exp(x - top) for x in logits]
    sums = [
        jnp.einsum("bktgs,bksh->bktgh", w.astype(v.dtype), v, preferred_element_type=jnp.float32)
        for w, (_, v) in zip(weights, pieces, strict=True)
    ]
    total = functools.reduce(jnp.add, [w.sum(-1, keepdims=True) for w in weights])
    y = (functools.reduce(jnp.add, sums) / total).astype(q.dtype)
    return y.transpose(0, 2, 1, 3, 4).reshape(batch, length, heads, width)


def choose_backend(
    requested: str,
    *,
    platform: str,  # cpu | gpu | tpu
    length: int,  # T
    dtype: jnp.dtype,
    segments: bool,
    ends: bool = False,
    context: int = 1,  # devices that split the sequence
    interpret: bool = False,
) -> str:
    """The requested backend; for "auto" the platform's best that can honour masks and shapes."""
    reasons = functools.partial(
        _obstacle, length=length, dtype=dtype, segments=segments, ends=ends, context=context
    )
    if requested == "auto":
        ladder = {name: reasons(name) for name in KERNELS[platform]}
        chosen = next(name for name, reason in ladder.items() if reason is None)
        passed_over = [f"{name} {reason}" for name, reason in ladder.items() if reason]
        slow = chosen == "xla" and platform != "cpu"
        _log_choice(
            chosen, platform, "; ".join(passed_over), logging.WARNING if slow else logging.INFO
        )
        return chosen
    if requested not in BACKENDS:
        choices = ", ".join(("auto", *BACKENDS))
        raise UserError(f"model.attention={requested!r} is not known; choose one of: {choices}")
    reason = reasons(requested)
    if requested not in KERNELS[platform] and not interpret:
        reason = f"does not run on {platform}"
    if reason:
        raise UserError(
            f"model.attention={requested!r}: {requested} {reason}; use model.attention=auto"
        )
    return requested


def _obstacle(
    backend: str, *, length: int, dtype: jnp.dtype, segments: bool, ends: bool, context: int
) -> str | None:
    """Why a kernel would compute something else than it is asked for, or nothing at all."""
    if backend == "xla":
        return None
    if ends:
        return "has no mask of branches"
    if backend == "splash":
        if length % (LANES * context):
            return (
                f"needs a sequence length ({length}) "
                f"that is a multiple of {LANES} x mesh.context ({context})"
            )
        return None
    if context > 1:
        return f"cannot split the sequence (mesh.context={context})"
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"works in half precision, not in {jnp.dtype(dtype).name}"
    if backend == "cudnn" and segments:
        return "has no document mask"
    if backend == "triton" and _largest_block(length, 128) < 16:
        return f"needs a sequence length ({length}) that is a multiple of 16"
    return None


@functools.cache  # once for each thing there is to say
def _log_choice(chosen: str, platform: str, passed_over: str, level: int) -> None:
    reasons = passed_over and f" ({passed_over})"
    logging.log(level, "attention: %s on %s%s", chosen, platform, reasons)


def _largest_block(length: int, limit: int) -> int:
    """The largest power of two that divides the length, up to a limit."""
    return min(length & -length, limit)


def _xla(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_segments: jax.Array | None,
    kv_segments: jax.Array | None,
    kv_ends: jax.Array | None,
    blocks: int,
) -> jax.Array:
    """Plain matmuls. Keys and values are repeated: on CPU faster than an einsum over groups.

    Queries are taken in `blocks` of at least 64, each with the keys up to its own end. Four leave
    out 3/8 of the work and take 40% off the time at 1,024 tokens (forward and backward, two cores).
    """
    length, group = q.shape[1], q.shape[2] // k.shape[2]
    q = q.transpose(0, 2, 1, 3)
    k = jnp.repeat(k, group, axis=2).transpose(0, 2, 1, 3)
    v = jnp.repeat(v, group, axis=2).transpose(0, 2, 1, 3)
    place = jnp.arange(length)
    outputs = []
    for block in range(blocks):
        start, end = block * length // blocks, (block + 1) * length // blocks
        mask = (place[start:end, None] >= place[:end])[None]
        if q_segments is not None and kv_segments is not None:
            mask &= q_segments[:, start:end, None] == kv_segments[:, None, :end]
        if kv_ends is not None:
            mask &= place[start:end, None] < kv_ends[:, None, :end]
        logits = jnp.einsum(
            "bhtd,bhsd->bhts",
            q[:, :, start:end],
            k[:, :, :end],
            preferred_element_type=jnp.float32,
        )
        logits = jnp.where(mask[:, None], logits * q.shape[-1] ** -0.5, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits).astype(v.dtype)
        outputs.append(jnp.einsum("bhts,bhsd->bhtd", weights, v[:, :, :end]))
    return jnp.concatenate(outputs, axis=2).transpose(0, 2, 1, 3)


def _splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_segments: jax.Array | None,
    kv_segments: jax.Array | None,
    mesh: AbstractMesh,
    interpret: bool,
) -> jax.Array:
    """TPU. Where `context` splits the sequence, a device holds its own queries and all keys."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    _, length, heads, head_dim = q.shape
    head_shards, q_shards = mesh.shape.get("tensor", 1), mesh.shape.get("context", 1)
    block_q = _largest_block(length // q_shards, 512)
    block_kv = _largest_block(length, 512)
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([splash.CausalMask((length, length))] * heads),
        head_shards=head_shards,
        q_seq_shards=q_shards,
        block_sizes=splash.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
        residual_checkpoint_name=CONTEXT,
        interpret=interpret,
    )

    def local(kernel, q, k, v, q_segments, kv_segments):
        segments = None if q_segments is None else splash.SegmentIds(q_segments, kv_segments)
        q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
        q = q * head_dim**-0.5  # the kernel does not scale
        return jax.vmap(kernel)(q, k, v, segments).transpose(0, 2, 1, 3)

    if mesh.empty:
        return local(kernel, q, k, v, q_segments, kv_segments)
    _check_heads(k, mesh)
    queries, keys = P(BATCH, "context", "tensor"), P(BATCH, None, "tensor")
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(
            kernel.manual_sharding_spec(NamedSharding(mesh, P("tensor", "context"))),
            queries,
            keys,
            keys,
            P(BATCH, "context"),
            P(BATCH, None),
        ),
        out_specs=queries,
        check_vma=False,
    )(kernel, q, k, v, q_segments, kv_segments)


def _triton(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, *, interpret: bool
) -> jax.Array:
    """GPU, with document masks. The kernel wants as many key heads as query heads."""
    from jax.experimental.pallas.ops.gpu import attention as pallas_gpu

    group, length = q.shape[2] // k.shape[2], q.shape[1]
    block = _largest_block(length, 128 if q.shape[-1] <= 64 else 64)  # bounded by shared memory
    backward_block = _largest_block(length, 32)
    return pallas_gpu.mha(
        q,
        jnp.repeat(k, group, axis=2),
        jnp.repeat(v, group, axis=2),
        segments,
        sm_scale=q.shape[-1] ** -0.5,
        causal=True,
        block_sizes=pallas_gpu.BlockSizes(
            block_q=block,
            block_k=block,
            block_q_dkv=backward_block,
            block_kv_dkv=backward_block,
            block_q_dq=backward_block,
            block_kv_dq=backward_block,
        ),
        interpret=interpret,
    )


def _on_mesh(
    kernel: Callable[..., jax.Array],
    mesh: AbstractMesh,
    q: jax.Array,
    k: jax.Array,
    *rest: jax.Array | None,
) -> jax.Array:
    """A kernel that the compiler cannot split runs on each device's own sequences and heads."""
    if mesh.empty:
        return kernel(q, k, *rest)
    _check_heads(k, mesh)
    heads = P(BATCH, None, "tensor")
    specs = (heads, heads, heads, P(BATCH))[: 2 + len(rest)]
    return jax.shard_map(kernel, mesh=mesh, in_specs=specs, out_specs=heads, check_vma=False)(
        q, k, *rest
    )


def _check_heads(k: jax.Array, mesh: AbstractMesh) -> None:
    if k.shape[2] % mesh.shape["tensor"]:
        raise UserError(
            f"model.num_kv_heads={k.shape[2]} does not divide by mesh.tensor={mesh.shape['tensor']}"
        )
