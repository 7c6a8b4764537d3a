"""The candidate's script before any idea: what it learns, and that its model is GPT-2."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

TINY = """
vocabulary, context, layers, heads, width, mlp_ratio = 16, 12, 2, 2, 16, 4
init_scale, dtype = 0.02, "float32"
batch_rows, parts, peak_rate, warmup_steps, schedule, final_share = 16, 2, 1e-2, 5, "cosine", 0.1
beta1, beta2, weight_decay, clip_norm = 0.9, 0.95, 0.1, 1.0
reserve_seconds, log_every = 0.0, 100
"""


@pytest.fixture
def train(program, tmp_path, monkeypatch):
    """The script, tiny, on a text in which each token but the first follows from the one before."""
    (tmp_path / "tiny.py").write_text(TINY)
    monkeypatch.syspath_prepend(str(tmp_path))
    for i, start in enumerate((0, 5)):
        np.save(tmp_path / f"train-{i}.npy", ((start + 7 * np.arange(500)) % 16).astype(np.uint16))
    places = {"DATA": tmp_path, "ARTIFACT": tmp_path / "artifact", "SETTINGS": "tiny"}
    two = jax.devices()[:2]
    monkeypatch.setattr(jax, "devices", lambda: two)
    return program("code/train.py", **places, STEPS=40, SEED=1)


def loss(train):
    rows = ((np.arange(16)[:, None] + 7 * np.arange(13)) % 16).astype(np.int32)
    return float(train.loss_of(train.restore(), rows))


def test_it_learns_and_the_same_seed_gives_the_same_weights(train, monkeypatch, capsys, tmp_path):
    train.main()
    learnt, first = train.restore(), loss(train)
    assert first < 1.0 < np.log(16)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["steps"] == 40 and report["tokens"] == 40 * 16 * 12
    train.main()
    jax.tree.map(np.testing.assert_array_equal, learnt, train.restore())
    monkeypatch.setenv("SEED", "2")
    train.main()
    assert loss(train) != first


def test_it_stops_by_itself_when_its_budget_is_spent(train, monkeypatch, capsys):
    clock = iter(np.arange(0, 100, 0.5))  # half a second passes at each look
    monkeypatch.setattr(train, "spent", lambda: float(next(clock)))
    monkeypatch.setattr(train, "STEPS", 0)
    monkeypatch.setattr(train, "BUDGET_SECONDS", 10.0)
    train.main()
    assert 5 <= json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] <= 10


def test_parts_of_a_batch_make_the_same_update_as_the_whole(train):
    parameters = jax.tree.map(jnp.asarray, train.initialize(0))
    moments = train.optimizer.init(parameters)
    rows = np.random.default_rng(0).integers(0, 16, (16, 13))
    step = jax.jit(train.train_step.__wrapped__)  # which gives no buffers away
    whole = step(parameters, moments, jnp.asarray(rows[None]), 1e-2)
    parts = step(parameters, moments, jnp.asarray(rows.reshape(4, 4, 13)), 1e-2)
    assert float(whole[2]) == pytest.approx(float(parts[2]), abs=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), whole[0], parts[0])


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_end(train):
    assert train.learning_rate(0, 0.0) == pytest.approx(1e-2 / 5)
    assert train.learning_rate(4, 0.0) == pytest.approx(1e-2)
    assert train.learning_rate(9, 0.5) == pytest.approx(1e-2 * 0.55)
    assert train.learning_rate(99, 1.0) == pytest.approx(1e-3)


def test_decay_spares_biases_and_scales(train):
    parameters = jax.tree.map(jnp.asarray, train.initialize(0))
    nothing = jax.tree.map(jnp.zeros_like, parameters)
    change, _ = train.optimizer.update(nothing, train.optimizer.init(parameters), parameters)
    block = change["blocks"][0]
    assert np.allclose(block["qkv"]["matrix"], 0.1 * parameters["blocks"][0]["qkv"]["matrix"])
    assert not block["attention_norm"]["scale"].any() and not block["qkv"]["bias"].any()


def test_the_full_size_has_gpt2s_124_million_parameters(program):
    train = program("code/train.py", SETTINGS="full")
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), train.initialize(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    padding = (train.settings.vocabulary - 50257) * train.settings.width
    assert count - padding == 124_439_808  # what transformers counts in "gpt2"
    assert train.settings.batch_rows * train.settings.context == 262_144
    rows = jax.ShapeDtypeStruct((2, 1025), jnp.int32)
    assert jax.eval_shape(train.loss_of, shapes, rows).shape == ()


def test_the_forward_pass_is_that_of_transformers(train):
    torch = pytest.importorskip("torch")
    from transformers import GPT2Config, GPT2LMHeadModel

    s, draw = train.settings, np.random.default_rng(0)
    parameters = jax.tree.map(
        lambda p: np.asarray(p + 0.2 * draw.normal(size=p.shape), np.float32),
        train.initialize(0),
    )
    config = GPT2Config(
        vocab_size=s.vocabulary,
        n_positions=s.context,
        n_embd=s.width,
        n_layer=s.layers,
        n_head=s.heads,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
    )
    theirs = GPT2LMHeadModel(config).eval()
    weights = {"wte.weight": parameters["tokens"], "wpe.weight": parameters["positions"]}
    norms = {"ln_f": parameters["final_norm"]}
    for i, block in enumerate(parameters["blocks"]):
        norms |= {f"h.{i}.ln_1": block["attention_norm"], f"h.{i}.ln_2": block["mlp_norm"]}
        names = {"attn.c_attn": "qkv", "attn.c_proj": "attention_out"}
        for name, ours in (names | {"mlp.c_fc": "mlp_in", "mlp.c_proj": "mlp_out"}).items():
            weights[f"h.{i}.{name}.weight"] = block[ours]["matrix"]
            weights[f"h.{i}.{name}.bias"] = block[ours]["bias"]
    for name, norm in norms.items():
        weights |= {f"{name}.weight": norm["scale"], f"{name}.bias": norm["bias"]}
    tensors = {name: torch.tensor(value) for name, value in weights.items()}
    missing = theirs.transformer.load_state_dict(tensors, strict=True)
    assert not missing.missing_keys
    tokens = draw.integers(0, s.vocabulary, (3, s.context))
    hidden, unembedding = train.features(parameters, jnp.asarray(tokens, jnp.int32))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(hidden @ unembedding.T, expected, atol=2e-5, rtol=2e-5)
