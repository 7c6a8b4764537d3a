"""Llama 3 with per-head QK-norm: the whole model, for training and for cached decoding.

The layers' parameters are stacked on a leading axis and scanned, so compile time does not grow with
depth; decoding takes them apart (`apart`), for a cache in a scan is copied at every step.
`bind(config, params)` makes a callable model of a plain nested dict of arrays; that dict, and
nothing of a module library, is what optimizers, checkpoints and exports see.

Shapes: B batch, T time, D model width, H query heads, K key-value heads, h head width, F MLP width,
V vocabulary, L layers.
"""

import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from sbp_jax.config import ModelConfig
from sbp_jax.model.attention import Seen, attention, cached_attention
from sbp_jax.model.cache import Cache, Past, add, pasts, positions_after
from sbp_jax.model.loss import project
from sbp_jax.parallel import constrain, platform

Params = dict[str, Any]  # nested; leaves are arrays (or shapes, or shardings) under the same names

# What the backward pass finds in memory, instead of computing it again; `none` keeps everything.
REMAT_POLICIES = {
    "none": None,
    "full": (),
    "qkv": ("query", "key", "value"),
    "attention": ("query", "key", "value", "context", "attention_out"),
    "minimal": ("query", "key", "value", "context", "attention_out", "mlp_gate", "mlp_up"),
}


class Block(nnx.Module):
    """One layer. Built with the parameters of all, stacked; called with one layer's slice."""

    def __init__(self, config: ModelConfig, seed: int):
        c, layers = config, config.num_layers
        param = functools.partial(_param, seed=seed)
        into_width = (c.d_model) ** -0.5
        # Each of the 2L residual branches adds variance: scaled so that the sum of them stays at
        # one.
        branch = (2 * layers) ** -0.5
        self.config = config
        self.attention_norm = param(
            "attention_norm", (layers, c.d_model), ("layers", "norm"), 0, "norm"
        )
        q_shape, kv_shape = (c.num_heads, c.head_dim), (c.num_kv_heads, c.head_dim)
        q_axes, kv_axes = ("heads", "head_dim"), ("kv_heads", "head_dim")
        self.wq = param(
            "wq", (layers, c.d_model, *q_shape), ("layers", "width", *q_axes), into_width
        )
        self.wk = param(
            "wk", (layers, c.d_model, *kv_shape), ("layers", "width", *kv_axes), into_width
        )
        self.wv = param(
            "wv", (layers, c.d_model, *kv_shape), ("layers", "width", *kv_axes), into_width
        )
        wo_std = branch * (c.num_heads * c.head_dim) ** -0.5
        self.wo = param("wo", (layers, *q_shape, c.d_model), ("layers", *q_axes, "width"), wo_std)
        if c.attention_bias:
            self.bq = param("bq", (layers, *q_shape), ("layers", *q_axes), 0, "bias")
            self.bk = param("bk", (layers, *kv_shape), ("layers", *kv_axes), 0, "bias")
            self.bv = param("bv", (layers, *kv_shape), ("layers", *kv_axes), 0, "bias")
        if c.qk_norm:
            self.q_norm = param("q_norm", (layers, c.head_dim), ("layers", "head_dim"), 0, "norm")
            self.k_norm = param("k_norm", (layers, c.head_dim), ("layers", "head_dim"), 0, "norm")
        self.mlp_norm = param("mlp_norm", (layers, c.d_model), ("layers", "norm"), 0, "norm")
        self.w_gate = param(
            "w_gate", (layers, c.d_model, c.d_ff), ("layers", "width", "mlp"), into_width
        )
        self.w_up = param(
            "w_up", (layers, c.d_model, c.d_ff), ("layers", "width", "mlp"), into_width
        )
        w_down_std = branch * c.d_ff**-0.5
        self.w_down = param(
            "w_down", (layers, c.d_ff, c.d_model), ("layers", "mlp", "width"), w_down_std
        )

    def __call__(self, x, rope, seen: Seen, past: Past | None = None, dropout=None):
        """The tokens' activations, and the layer's recent keys and values if there is a past.

        dropout: a key for each row, of this layer.
        """
        c = self.config
        y, recent = self.attend(rms_norm(x, self.attention_norm, c.norm_eps), rope, seen, past)
        x = x + drop(y, c.dropout, dropout, 0)
        y = self.mlp(rms_norm(x, self.mlp_norm, c.norm_eps))
        return x + drop(y, c.dropout, dropout, 1), recent

    def attend(self, x, rope, seen, past):
        c = self.config
        q = product("btd,dnh->btnh", x, gathered(self.wq, x.dtype))
        k = product("btd,dnh->btnh", x, gathered(self.wk, x.dtype))
        v = product("btd,dnh->btnh", x, gathered(self.wv, x.dtype))
        if c.attention_bias:
            q, k, v = (
                y + b[...].astype(x.dtype) for y, b in ((q, self.bq), (k, self.bk), (v, self.bv))
            )
        if c.qk_norm:
            q, k = rms_norm(q, self.q_norm, c.norm_eps), rms_norm(k, self.k_norm, c.norm_eps)
        q, k = rotate(q, rope), rotate(k, rope)
        q = checkpoint_name(constrain(q, "batch", "time", "heads", None), "query")
        # Every query needs all keys before it: under context parallelism they are gathered here.
        k = checkpoint_name(constrain(k, "batch", None, "kv_heads", None), "key")
        v = checkpoint_name(constrain(v, "batch", None, "kv_heads", None), "value")
        recent = None
        if past is not None:
            recent = add(past.recent, k, v, past.filled)
        if past is not None and recent is not None and past.visible:
            y = cached_attention(q, [*past.blocks, recent], past.visible)
        else:
            y = attention(
                q,
                k,
                v,
                q_segments=seen.segments,
                kv_segments=seen.segments,
                kv_ends=seen.ends,
                backend=c.attention,
            )
        y = constrain(y, "batch", "time", "heads", None)  # named "context" by the kernel's caller
        y = product("btnh,nhd->btd", y, gathered(self.wo, x.dtype))
        return checkpoint_name(constrain(y, "batch", "time", None), "attention_out"), recent

    def mlp(self, x):
        gate = product("btd,df->btf", x, gathered(self.w_gate, x.dtype))
        up = product("btd,df->btf", x, gathered(self.w_up, x.dtype))
        gate, up = checkpoint_name(gate, "mlp_gate"), checkpoint_name(up, "mlp_up")
        hidden = constrain(jax.nn.silu(gate) * up, "batch", "time", "mlp")
        y = product("btf,fd->btd", hidden, gathered(self.w_down, x.dtype))
        return constrain(y, "batch", "time", None)


class Transformer(nnx.Module):
    def __init__(self, config: ModelConfig, seed: int = 0):
        c = config
        # d^-0.5 makes the logits of tied embeddings start at unit scale. Under mup_simple the scale
        # of the embedding does not depend on the width; `logit_scale` does instead.
        mup = c.parametrization == "mup_simple"
        embed_std = (c.mup_base_width if mup else c.d_model) ** -0.5
        self.config = config
        self.embed = _param(
            "embed",
            (c.vocab_size, c.d_model),
            ("vocab", "width"),
            embed_std,
            "embedding",
            seed=seed,
        )
        self.layers: Any = Block(config, seed)  # or, taken apart, a list of them
        self.final_norm = _param("final_norm", (c.d_model,), ("norm",), 0, "norm", seed=seed)
        if not c.tie_embeddings:
            self.head = _param(
                "head", (c.d_model, c.vocab_size), ("width", "vocab"), embed_std, "head", seed=seed
            )

    def __call__(
        self,
        tokens,
        segments=None,
        positions=None,
        cache: Cache | None = None,
        ends=None,
        dropout=None,
    ):
        """Final hidden states [B, T, D] (normed, ready for `logits`), and the cache if one was
        given.

        tokens [B, T]; segments and ends [B, T]: see attention.Seen; positions [B, T]; dropout [B]:
        keys, in training. With a cache the tokens follow what is in it, and the parameters are
        those of `apart`.
        """
        c, seen = self.config, Seen(segments, ends)
        if cache is not None:
            positions = positions_after(cache, tokens.shape[1])
        elif positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        # In float32, for its gradient is a sum over all the places of a token: in bfloat16 such a
        # sum stops growing at 256 equal parts.
        lookup_dtype = jnp.float32 if cache is None else compute_dtype(c)
        x = gathered(self.embed, lookup_dtype)[tokens].astype(compute_dtype(c))
        x = constrain(x, "batch", "time", None)
        rope = rope_angles(positions, c)
        if isinstance(self.layers, Block):
            x = self._scanned(x, rope, seen, dropout)
        elif cache is None:
            for block in self.layers:
                x, _ = block(x, rope, seen)
        else:
            recent = []
            for block, past in zip(self.layers, pasts(cache), strict=True):
                x, piece = block(x, rope, seen, past)
                recent.append(piece)
            cache = cache._replace(recent=recent, filled=cache.filled + tokens.shape[1])
        return rms_norm(x, self.final_norm, c.norm_eps), cache

    def _scanned(self, x, rope, seen: Seen, dropout):
        c = self.config
        graphdef, stacked = nnx.split(self.layers)

        def layer(x, numbered):
            number, layer_params = numbered
            keys = None if dropout is None else folded(dropout, number)
            x, _ = nnx.merge(graphdef, layer_params)(x, rope, seen, dropout=keys)
            return x, None

        kept = REMAT_POLICIES[c.remat]
        if kept is not None:
            policy = jax.checkpoint_policies.save_only_these_names(*kept)
            layer = jax.checkpoint(layer, policy=policy, prevent_cse=not c.scan_layers)
        numbered = jnp.arange(c.num_layers), stacked
        return jax.lax.scan(layer, x, numbered, unroll=1 if c.scan_layers else c.num_layers)[0]

    def output_matrix(self) -> jax.Array:
        """[D, V] in float32, left as it is laid out: gathering it for the loss doubles the
        temporaries.
        """
        return self.embed[...].T if self.config.tie_embeddings else self.head[...]

    @property
    def logit_scale(self) -> float:
        c = self.config
        return c.mup_base_width / c.d_model if c.parametrization == "mup_simple" else 1.0

    def logits(self, x) -> jax.Array:
        """[B, T, V] in float32; training uses loss.cross_entropy, which need not hold them all."""
        y = project(x, self.output_matrix())
        return constrain(y, "batch", "time", "vocab") * self.logit_scale


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(spec: str, x, w):
    """The einsum of activations and a weight.

    Only the order of the factors in the weight's gradient is ours. Differentiation puts the
    output's gradient first and transposes the product: XLA:CPU then computes and stores all that
    led to that gradient twice, once transposed, which takes a fifth of a small model's step.
    """
    return jnp.einsum(spec, x, w)


def _product_forward(spec, x, w):
    return product(spec, x, w), (x, w)


def _product_backward(spec, factors, gradient):
    x, w = factors
    inputs, y_axes = spec.split("->")
    x_axes, w_axes = inputs.split(",")
    to_x = jnp.einsum(f"{y_axes},{w_axes}->{x_axes}", gradient, w)
    return to_x, jnp.einsum(f"{x_axes},{y_axes}->{w_axes}", x, gradient)


product.defvjp(_product_forward, _product_backward)


def rms_norm(x, weight, eps: float):
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    return (y * weight[...]).astype(x.dtype)


def drop(x, rate: float, keys, place: int):
    """x [B, T, D] with a share of it set to zero, and the rest made larger, so that the mean stays.

    A row has its own key, so neither mesh nor accumulation decides what is dropped. Bits are drawn
    a byte for each number, for on CPUs they cost as much as the layer: the rate is in 1/256.
    """
    share = min(round(rate * 256), 255)
    if keys is None or not share:
        return x
    bits = jax.vmap(lambda key: jax.random.bits(key, x.shape[1:], jnp.uint8))(folded(keys, place))
    kept = constrain(bits >= share, "batch", "time", None)
    return jnp.where(kept, x * (256 / (256 - share)), 0).astype(x.dtype)


def folded(keys, number):
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def rope_angles(positions, config: ModelConfig):
    """Cosines and signed sines [B, T, 1, h], in float32, for `rotate`."""
    c = config
    frequency = c.rope_theta ** (-jnp.arange(0, c.head_dim, 2, dtype=jnp.float32) / c.head_dim)
    if c.rope_scaling != 1.0:
        # Llama 3.1: slow down what turns rarely within the original context, leave fast turns,
        # blend between.
        turns = c.rope_original_context * frequency / (2 * jnp.pi)
        blend = (turns - c.rope_scaling_low) / (c.rope_scaling_high - c.rope_scaling_low)
        blend = jnp.clip(blend, 0.0, 1.0)
        frequency = frequency * (blend + (1 - blend) / c.rope_scaling)
    angles = positions[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)


def rotate(x, rope):
    """Rotary embedding in the rotate-half convention: pairs are (i, i + h/2)."""
    cos, sin = rope
    y = x.astype(jnp.float32)
    return (y * cos + jnp.roll(y, y.shape[-1] // 2, axis=-1) * sin).astype(x.dtype)


def gathered(weight: nnx.Param, dtype) -> jax.Array:
    """The weight as a matmul uses it: cast first, then gathered over fsdp, so that half the bytes
    travel; its gradient goes back to where the weight lies as it is, in the compute dtype.
    """
    axes = weight.get_metadata("axes")
    value = weight[...].astype(dtype)
    if axes[0] == "layers" and value.ndim == len(axes) - 1:
        axes = axes[1:]
    return _gather(axes, value)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(axes: tuple[str, ...], value):
    return constrain(value, *(None if axis == "width" else axis for axis in axes))


def _gather_forward(axes, value):
    return _gather(axes, value), None


def _gather_backward(axes, _, gradient):
    # Not the constraint's own transpose, by which each device gets the sum of the whole gradient:
    # this lets the compiler scatter the sum.
    return (constrain(gradient, *axes),)


_gather.defvjp(_gather_forward, _gather_backward)


def compute_dtype(config: ModelConfig) -> jnp.dtype:
    if config.dtype == "auto":
        return jnp.dtype(jnp.float32 if platform() == "cpu" else jnp.bfloat16)
    return jnp.dtype(config.dtype)


def _param(name, shape, axes, std: float, role="matrix", *, seed: int) -> nnx.Param:
    """A float32 parameter; `axes` are names for parallel.AXES, `role` decides decay and rate
    (optimizer.py).
    """
    if role == "norm":
        value = jnp.ones(shape, jnp.float32)
    elif role == "bias":
        value = jnp.zeros(shape, jnp.float32)
    else:
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
        value = std * jax.random.truncated_normal(key, -3, 3, shape, jnp.float32)
    return nnx.Param(value, axes=axes, role=role)


@functools.lru_cache(maxsize=32)
def _skeleton(config: ModelConfig, layers_apart: bool = False):
    def make() -> Transformer:
        model = Transformer(config)
        if layers_apart:
            model.layers = nnx.List([Block(config, 0) for _ in range(config.num_layers)])
        return model

    return nnx.split(nnx.eval_shape(make))


def init_params(config: ModelConfig, seed: int) -> Params:
    return nnx.to_pure_dict(nnx.state(Transformer(config, seed)))


def bind(config: ModelConfig, params: Params) -> Transformer:
    """The model with these parameters; cheap enough for the inside of a jitted function."""
    graphdef, state = _skeleton(config, layers_apart=0 in params["layers"])
    state = jax.tree.map(lambda x: x, state)  # a copy: the skeleton is shared
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graphdef, state)


def apart(config: ModelConfig, params: Params) -> Params:
    """The same parameters for generation: each layer's under its number, and what matmuls use in
    the compute dtype already.
    """

    def cast(path: Any, value: jax.Array) -> jax.Array:
        return value if "norm" in path[-1].key else value.astype(compute_dtype(config))

    params = jax.tree_util.tree_map_with_path(cast, params)
    layers = {
        i: jax.tree.map(lambda stacked, i=i: stacked[i], params["layers"])
        for i in range(config.num_layers)
    }
    return {**params, "layers": layers}


def param_shapes(config: ModelConfig) -> Params:
    return nnx.to_pure_dict(_skeleton(config)[1])


def param_metadata(config: ModelConfig, name: str) -> Params:
    """A tree like the parameters, of "axes" (tuples of axis names) or "role"."""
    is_param = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
    state = _skeleton(config)[1]
    return nnx.to_pure_dict(jax.tree.map(lambda p: p.get_metadata(name), state, is_leaf=is_param))


def num_params(config: ModelConfig) -> int:
    return sum(x.size for x in jax.tree.leaves(param_shapes(config)))
