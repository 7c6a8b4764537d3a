"""Our parameters and config as Hugging Face's, and back: names, shapes, every field that matters.

Qwen3 is Llama 3 with per-head QK-norm, so our models need no custom code there: they leave as
Qwen3, without QK-norm as Llama, with attention biases as Qwen2. RoPE is rotate-half on both sides,
so nothing is permuted.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from sbp_jax.config import ModelConfig
from sbp_jax.errors import UserError

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_KINDS = {int: "whole number above 0", float: "number above 0"}
_KINDS |= {bool: "true or false", str: "text", dict: "object"}


class Tensor(NamedTuple):
    """One of our parameters, or one layer's part of it."""

    path: tuple[str, ...]
    name: str  # Hugging Face's; {} is the number of the layer
    shape: tuple[int, ...]  # without the layers' axis
    inputs: int = 0  # leading axes that a matmul contracts; stored there as (outputs, inputs)

    @property
    def layered(self) -> bool:
        return "{}" in self.name


def hf_config(
    model: ModelConfig,
    *,
    max_position_embeddings: int,
    bos_token_id: int | None,
    eos_token_id: int | None,
    pad_token_id: int | None,
    dtype: str = "float32",
) -> dict[str, Any]:
    """config.json. What is left out gets the reader's default there, silently: so nothing is."""
    if model.qk_norm and model.attention_bias:
        raise UserError(
            "model.qk_norm and model.attention_bias together have no Hugging Face architecture; "
            "train without one of them to export"
        )
    model_type = "qwen3" if model.qk_norm else "qwen2" if model.attention_bias else "llama"
    scaling = None
    if model.rope_scaling != 1.0:
        scaling = {
            "rope_type": "llama3",
            "factor": model.rope_scaling,
            "low_freq_factor": model.rope_scaling_low,
            "high_freq_factor": model.rope_scaling_high,
            "original_max_position_embeddings": model.rope_original_context,
        }
    return {
        "architectures": [ARCHITECTURES[model_type]],
        "model_type": model_type,
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": model.d_ff,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": max_position_embeddings,
        "rms_norm_eps": model.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": model.tie_embeddings,
        "attention_bias": model.attention_bias,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "use_sliding_window": False,
        # Twice: transformers 5 and vLLM read the first, older readers the other two.
        "rope_parameters": {
            **(scaling or {"rope_type": "default"}),
            "rope_theta": model.rope_theta,
        },
        "rope_theta": model.rope_theta,
        "rope_scaling": scaling,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": pad_token_id,
        "dtype": dtype,
        "torch_dtype": dtype,
        "use_cache": True,
    }


def model_config_from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """The architecture that a config.json describes; `UserError` if it is none of ours."""

    def refuse(field: str, value: Any) -> None:
        raise UserError(f"config.json: {field}={value!r} is not supported")

    model_type = read_field(config, "model_type", str)
    if model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"config.json: model_type={model_type!r} is not supported, only: {known}")
    plain = {"hidden_act": "silu", "mlp_bias": False, "use_sliding_window": False}
    plain |= {"quantization_config": None, "partial_rotary_factor": 1.0}
    if model_type != "qwen2":  # which has its biases always, and the output projection's never
        plain["attention_bias"] = False
    for field, value in plain.items():
        if config.get(field, value) != value:
            refuse(field, config[field])

    rope: dict[str, Any] = {}
    rope_types = []
    for field in ("rope_scaling", "rope_parameters"):
        given = read_field(config, field, dict, {})
        rope |= given
        if rope_type := given.get("rope_type", given.get("type")):
            rope_types.append(rope_type)
            if rope_type not in ("default", "llama3"):
                refuse(f"{field}.rope_type", rope_type)
            if rope_type != rope_types[0]:
                refuse("rope_scaling beside rope_parameters", config["rope_scaling"])
    scaling: dict[str, Any] = {}
    if "llama3" in rope_types:
        scaling = {
            "rope_scaling": read_field(rope, "factor", float),
            "rope_scaling_low": read_field(rope, "low_freq_factor", float),
            "rope_scaling_high": read_field(rope, "high_freq_factor", float),
            "rope_original_context": read_field(rope, "original_max_position_embeddings", int),
        }
    num_heads = read_field(config, "num_attention_heads", int)
    d_model = read_field(config, "hidden_size", int)
    # Defaults are those of transformers, which old files rely on.
    theta = read_field(config, "rope_theta", float, 10_000.0)
    return ModelConfig(
        num_layers=read_field(config, "num_hidden_layers", int),
        d_model=d_model,
        num_heads=num_heads,
        num_kv_heads=read_field(config, "num_key_value_heads", int, num_heads),
        head_dim=read_field(
            config, "head_dim", int, 128 if model_type == "qwen3" else d_model // num_heads
        ),
        d_ff=read_field(config, "intermediate_size", int),
        vocab_size=read_field(config, "vocab_size", int),
        rope_theta=read_field(rope, "rope_theta", float, theta),
        norm_eps=read_field(config, "rms_norm_eps", float, 1e-6),
        tie_embeddings=read_field(config, "tie_word_embeddings", bool, False),
        qk_norm=model_type == "qwen3",
        attention_bias=model_type == "qwen2",
        **scaling,
    )


def read_field(config: Mapping[str, Any], field: str, kind: type, default: Any = None) -> Any:
    """A field of a config.json, which has a default if it need not be there. All numbers that
    matter to us are above 0.
    """
    value = default if config.get(field) is None else config[field]
    if value is None:
        raise UserError(f"config.json: no field {field!r}; the Hugging Face folder is incomplete")
    kinds = (int, float) if kind is float else (kind,)
    if type(value) not in kinds or (kind in (int, float) and not 0 < value < math.inf):
        raise UserError(f"config.json: {field}={value!r} is no {_KINDS[kind]}; fetch it again")
    return kind(value)


def to_hf_tensors(
    params: Mapping[str, Any], model: ModelConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """All of them, by Hugging Face's names."""
    for tensor in tensors(model):
        ours: Any = params
        for key in tensor.path:
            ours = ours[key]
        yield from to_hf(ours if tensor.layered else [ours], tensor, model)


def to_hf(
    ours: Iterable[Any], tensor: Tensor, model: ModelConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """One of our parameters, of which `ours` yields the layers if it has any.

    C-contiguous, each: safetensors writes the bytes of anything else in the wrong order, silently.
    """
    for layer, part in enumerate(ours):
        value = np.asarray(part)
        if tensor.path == ("final_norm",):
            value = value * value.dtype.type(_logit_scale(model))
        yield tensor.name.format(layer), np.ascontiguousarray(_to_hf(value, tensor))


def hf_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the folder, layer after layer, as those who read it want them."""
    shapes: dict[str, tuple[int, ...]] = {}
    layered = [t for t in tensors(model) if t.layered]
    single = [t for t in tensors(model) if not t.layered]
    for tensor in single[:1]:
        shapes[tensor.name] = _hf_shape(tensor)
    for layer in range(model.num_layers):
        shapes |= {t.name.format(layer): _hf_shape(t) for t in layered}
    return shapes | {t.name: _hf_shape(t) for t in single[1:]}


def from_hf_tensors(get: Callable[[str], np.ndarray], model: ModelConfig) -> dict[str, Any]:
    """Our parameters, layers stacked; `get` reads one tensor by its Hugging Face name."""
    params: dict[str, Any] = {"layers": {}}
    for tensor in tensors(model):
        place = params["layers"] if tensor.layered else params
        place[tensor.path[-1]] = from_hf(get, tensor, model)
    return params


def from_hf(
    get: Callable[[str], np.ndarray], tensor: Tensor, model: ModelConfig, dtype: Any = None
) -> np.ndarray:
    """One of our parameters, in the dtype that it has there unless another is given."""

    def read(name: str) -> np.ndarray:
        value = np.asarray(get(name))
        expected = _hf_shape(tensor)
        if value.shape != expected:
            raise UserError(
                f"tensor {name!r} has shape {value.shape} where config.json asks for {expected}; "
                "the weights belong to another model"
            )
        if tensor.inputs:
            value = value.T
        value = value.reshape(tensor.shape)
        if tensor.path == ("final_norm",):
            value = value / value.dtype.type(_logit_scale(model))
        return value

    if not tensor.layered:
        value = read(tensor.name)
        return np.ascontiguousarray(value, dtype or value.dtype)
    first = read(tensor.name.format(0))
    stacked = np.empty((model.num_layers, *tensor.shape), dtype or first.dtype)
    stacked[0] = first
    for layer in range(1, model.num_layers):
        stacked[layer] = read(tensor.name.format(layer))
    return stacked


def tensors(model: ModelConfig) -> list[Tensor]:
    """All of our parameters, and what they are there."""
    c = model
    d, f = c.d_model, c.d_ff
    q, kv = (c.num_heads, c.head_dim), (c.num_kv_heads, c.head_dim)
    layer: list[tuple[str, str, tuple[int, ...], int]] = [
        ("attention_norm", "input_layernorm.weight", (d,), 0),
        ("wq", "self_attn.q_proj.weight", (d, *q), 1),
        ("wk", "self_attn.k_proj.weight", (d, *kv), 1),
        ("wv", "self_attn.v_proj.weight", (d, *kv), 1),
        ("wo", "self_attn.o_proj.weight", (*q, d), 2),
        ("mlp_norm", "post_attention_layernorm.weight", (d,), 0),
        ("w_gate", "mlp.gate_proj.weight", (d, f), 1),
        ("w_up", "mlp.up_proj.weight", (d, f), 1),
        ("w_down", "mlp.down_proj.weight", (f, d), 1),
    ]
    if c.qk_norm:
        layer += [
            ("q_norm", "self_attn.q_norm.weight", (c.head_dim,), 0),
            ("k_norm", "self_attn.k_norm.weight", (c.head_dim,), 0),
        ]
    if c.attention_bias:
        layer += [
            ("bq", "self_attn.q_proj.bias", q, 0),
            ("bk", "self_attn.k_proj.bias", kv, 0),
            ("bv", "self_attn.v_proj.bias", kv, 0),
        ]
    found = [Tensor(("embed",), "model.embed_tokens.weight", (c.vocab_size, d))]
    for key, name, shape, inputs in layer:
        found.append(Tensor(("layers", key), "model.layers.{}." + name, shape, inputs))
    found.append(Tensor(("final_norm",), "model.norm.weight", (d,)))
    if not c.tie_embeddings:
        found.append(Tensor(("head",), "lm_head.weight", (d, c.vocab_size), 1))
    return found


def _to_hf(value: np.ndarray, tensor: Tensor) -> np.ndarray:
    if tensor.inputs:
        return value.reshape(math.prod(tensor.shape[: tensor.inputs]), -1).T
    return value if tensor.path == ("embed",) else value.reshape(-1)


def _hf_shape(tensor: Tensor) -> tuple[int, ...]:
    return _to_hf(np.empty(tensor.shape, np.bool_), tensor).shape


def _logit_scale(model: ModelConfig) -> float:
    """mup_simple scales its logits; elsewhere the final norm does so, for any kind of head."""
    return model.mup_base_width / model.d_model if model.parametrization == "mup_simple" else 1.0
