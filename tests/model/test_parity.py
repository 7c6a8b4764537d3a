"""Our logits are those of transformers, of a numpy model, and of ourselves computed in other ways.

Norm weights and biases are random: at their initial values a wrong order or a missing one hides.
"""

import dataclasses
import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sbp_jax.config import ModelConfig
from sbp_jax.errors import UserError
from sbp_jax.interop.huggingface import (
    from_hf_tensors,
    hf_config,
    model_config_from_hf,
    to_hf_tensors,
)
from sbp_jax.model.cache import RUN, empty, empty_block, insert, settle
from sbp_jax.model.loss import cross_entropy
from sbp_jax.model.transformer import REMAT_POLICIES, apart, bind, param_shapes

spec = importlib.util.spec_from_file_location(
    "numpy_oracle", Path(__file__).with_name("numpy_oracle.py")
)
oracle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(oracle)

QWEN3 = ModelConfig(
    num_layers=3,
    d_model=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    d_ff=80,
    vocab_size=97,
    rope_theta=2_000.0,  # not what readers assume when it is missing, 10,000
    norm_eps=1e-3,  # large enough to show where it is added
)
LLAMA3 = dataclasses.replace(QWEN3, qk_norm=False, tie_embeddings=False)
MODELS = {
    "qwen3": QWEN3,
    "qwen3_untied_one_kv_head": dataclasses.replace(QWEN3, tie_embeddings=False, num_kv_heads=1),
    "llama3": LLAMA3,
    "llama3_no_groups": dataclasses.replace(LLAMA3, num_kv_heads=4, d_model=64),
    "llama31": dataclasses.replace(
        LLAMA3,
        rope_scaling=8.0,
        rope_scaling_low=1.0,
        rope_scaling_high=4.0,
        rope_original_context=64,
    ),
    "qwen2": dataclasses.replace(QWEN3, qk_norm=False, attention_bias=True),
    "qwen2_untied": dataclasses.replace(
        QWEN3, qk_norm=False, attention_bias=True, tie_embeddings=False
    ),
}
every_model = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())


def random_params(config, seed=0):
    """Large weights: attention far from uniform, activations far from linear."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name.endswith("norm"):
            value = random.uniform(0.3, 2.0, leaf.shape)
        elif name == "embed":
            value = random.normal(size=leaf.shape) * 0.3
        elif name.startswith("b"):
            value = random.normal(size=leaf.shape)
        else:
            value = random.normal(size=leaf.shape) * 1.5 * config.d_model**-0.5
        return value.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, param_shapes(config))


def random_tokens(config, *shape):
    return np.random.default_rng(1).integers(config.vocab_size, size=shape)


@functools.partial(jax.jit, static_argnums=0)
def our_logits(config, params, tokens, segments=None, positions=None):
    model = bind(config, params)
    hidden, _ = model(tokens, segments, positions)
    return model.logits(hidden)


def assert_close(actual, expected, bound=1e-4):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert expected.std() > 0.5  # or else a small difference says little
    assert np.abs(actual - expected).max() <= bound


def exported(config):
    return hf_config(
        config, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=None
    )


@every_model
def test_logits_equal_those_of_transformers(config):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    params, tokens = random_params(config), random_tokens(config, 2, 48)
    settings = exported(config)
    theirs = getattr(transformers, settings["architectures"][0])(
        transformers.AutoConfig.for_model(**settings)
    )
    state = {k: torch.from_numpy(v.copy()) for k, v in to_hf_tensors(params, config)}
    if config.tie_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    theirs.load_state_dict(state, strict=True)
    with torch.no_grad():
        expected = theirs.eval().float()(torch.from_numpy(tokens)).logits.numpy()
    assert_close(our_logits(config, params, tokens), expected)


@every_model
def test_logits_equal_those_of_the_numpy_model(config):
    params, tokens = random_params(config), random_tokens(config, 1, 24)
    expected = oracle.logits(params, config, tokens[0])
    assert_close(our_logits(config, params, tokens)[0], expected)


def test_packed_documents_equal_each_document_alone():
    config = MODELS["qwen3"]
    params, tokens = random_params(config), random_tokens(config, 1, 32)
    borders = [0, 11, 12, 32]
    lengths = np.diff(borders)
    segments = np.repeat(np.arange(3), lengths)[None]
    packed = our_logits(config, params, tokens, segments)[0]
    restarted = np.concatenate([np.arange(n) for n in lengths])[None]
    # RoPE sees only differences of positions: it does not matter where a document's begin.
    assert_close(our_logits(config, params, tokens, segments, restarted)[0], packed)
    for start, end in zip(borders, borders[1:], strict=False):
        expected = oracle.logits(params, config, tokens[0, start:end])
        assert_close(packed[start:end], expected)


def test_without_segments_documents_see_each_other():
    config = MODELS["qwen3"]
    params, tokens = random_params(config), random_tokens(config, 1, 16)
    other = tokens.copy()
    other[0, 0] = (other[0, 0] + 1) % config.vocab_size
    change = np.abs(our_logits(config, params, other) - our_logits(config, params, tokens))
    assert np.all(change.max(-1) > 1e-3)


@pytest.mark.parametrize("name", ["qwen3", "llama31", "qwen2_untied"])
def test_cached_decoding_equals_the_whole_sequence(name):
    """Prompts of several lengths, read together; then runs of tokens over the border of a block."""
    config = MODELS[name]
    params, tokens = random_params(config), random_tokens(config, 3, 60)
    expected = our_logits(config, params, tokens)
    params, lengths = apart(config, params), np.array([5, 16, 11])

    @jax.jit
    def forward(tokens, cache):
        model = bind(config, params)
        hidden, cache = model(tokens, cache=cache)
        return model.logits(hidden), cache

    logits, read = forward(tokens[:, :16], empty(config, 3, 16, jnp.float32))
    for row, length in enumerate(lengths):
        assert_close(logits[row, :length], expected[row, :length])
    cache = empty(config, 4, RUN, jnp.float32)
    cache = cache._replace(blocks=[empty_block(config, 4, 32, jnp.float32) for _ in range(3)])
    rows = np.array([3, 0, 1])  # another place for each
    cache = insert(cache, read, lengths, rows)
    at = lengths.copy()
    for step in range(40):
        fed = np.zeros((4, 1), np.int32)
        fed[rows, 0] = tokens[np.arange(3), at]
        logits, cache = forward(fed, cache)
        assert_close(logits[rows, 0], expected[np.arange(3), at])
        at += 1
        if step % RUN == RUN - 1:
            cache = settle(cache)


def loss_and_gradients(config, params, tokens, segments):
    def loss(params):
        model = bind(config, params)
        hidden, _ = model(tokens[:, :-1], segments[:, :-1])
        weights = jnp.ones(hidden.shape[:2])
        head = model.output_matrix()
        sums = cross_entropy(
            hidden, head, tokens[:, 1:], weights, z_loss=1e-2, chunks=config.loss_chunks
        )
        return sum(sums) / weights.size

    return jax.jit(jax.value_and_grad(loss))(params)


COMPUTED_OTHERWISE = {f"remat_{name}": {"remat": name} for name in REMAT_POLICIES if name != "none"}
COMPUTED_OTHERWISE |= {
    "unrolled": {"scan_layers": False},
    "unrolled_remat": {"scan_layers": False, "remat": "full"},
    "loss_chunks": {"loss_chunks": 4},
}


TWO_LAYERS = dataclasses.replace(QWEN3, num_layers=2)


@functools.cache
def computed_plainly():
    config = TWO_LAYERS
    params, tokens = random_params(config), random_tokens(config, 2, 33)
    segments = (np.arange(33) > 13).astype(np.int32)[None].repeat(2, 0)
    return params, tokens, segments, loss_and_gradients(config, params, tokens, segments)


@pytest.mark.parametrize("change", COMPUTED_OTHERWISE.values(), ids=COMPUTED_OTHERWISE.keys())
def test_how_it_is_computed_does_not_change_loss_or_gradients(change):
    params, tokens, segments, (loss, gradients) = computed_plainly()
    config = dataclasses.replace(TWO_LAYERS, **change)
    other_loss, other = loss_and_gradients(config, params, tokens, segments)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    for a, e in zip(jax.tree.leaves(other), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5 * float(np.abs(e).max()))


@every_model
def test_parameters_come_back_bit_identical(config):
    params = random_params(config)
    tensors = dict(to_hf_tensors(params, config))
    assert all(t.flags["C_CONTIGUOUS"] for t in tensors.values())
    again = from_hf_tensors(tensors.__getitem__, config)
    assert jax.tree.structure(again) == jax.tree.structure(param_shapes(config))
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert all(x.flags["C_CONTIGUOUS"] for x in jax.tree.leaves(again))
    assert {k: v.tobytes() for k, v in to_hf_tensors(again, config)} == {
        k: v.tobytes() for k, v in tensors.items()
    }


@every_model
def test_the_config_comes_back(config):
    assert model_config_from_hf(exported(config)) == config


def test_the_config_of_older_files_is_understood():
    config = exported(MODELS["llama31"])
    del config["rope_parameters"]
    assert model_config_from_hf(config) == MODELS["llama31"]
    for field in ("head_dim", "rope_scaling", "rope_theta", "tie_word_embeddings"):
        del config[field]
    older = model_config_from_hf(config)
    assert (older.head_dim, older.rope_theta, older.tie_embeddings) == (12, 10_000.0, False)


def test_mup_simple_leaves_as_a_standard_model_with_the_same_logits():
    ours = dataclasses.replace(QWEN3, parametrization="mup_simple", mup_base_width=32)
    theirs = dataclasses.replace(QWEN3, parametrization="standard")
    params, tokens = random_params(ours), random_tokens(ours, 1, 16)
    imported = from_hf_tensors(dict(to_hf_tensors(params, ours)).__getitem__, theirs)
    assert_close(our_logits(theirs, imported, tokens), our_logits(ours, params, tokens), bound=1e-4)
    assert_close(our_logits(ours, params, tokens)[0], oracle.logits(params, ours, tokens[0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mistral"}, "model_type='mistral'.*llama, qwen2, qwen3"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type='yarn'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window=True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_hidden_layers": None}, "no field 'num_hidden_layers'"),
    ],
)
def test_a_model_that_is_none_of_ours_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        model_config_from_hf(exported(QWEN3) | change)


def test_weights_of_another_shape_are_refused_by_name():
    tensors = dict(to_hf_tensors(random_params(QWEN3), QWEN3))
    wider = dataclasses.replace(QWEN3, num_kv_heads=4)
    with pytest.raises(
        UserError, match=r"layers.0.self_attn.k_proj.weight.*\(32, 48\).*\(64, 48\)"
    ):
        from_hf_tensors(tensors.__getitem__, wider)


def test_a_model_that_nobody_else_can_run_is_not_exported():
    with pytest.raises(UserError, match="qk_norm and model.attention_bias"):
        exported(dataclasses.replace(QWEN3, attention_bias=True))
