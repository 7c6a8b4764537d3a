"""The sampler draws from the model's own distribution, whatever stands beside a prompt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbp_jax.config import ModelConfig
from sbp_jax.inference.sampler import generate, nucleus
from sbp_jax.model import transformer

MODEL = ModelConfig(
    num_layers=2, d_model=32, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=64, vocab_size=48
)
NEVER = MODEL.vocab_size  # a stop token that no text has
PROMPTS = [[5, 9, 2], [7], [11, 3, 40, 8, 1, 30, 22], [1, 2, 3, 4]]


@pytest.fixture(scope="module")
def params():
    """Layers large enough that each next token depends on those before."""
    made = transformer.init_params(MODEL, 3)
    return {**made, "layers": jax.tree.map(lambda x: x * 2, made["layers"])}


@pytest.fixture(scope="module")
def next_logits(params):
    """Of a text, without a cache."""

    @jax.jit
    def all_logits(tokens):
        model = transformer.bind(MODEL, params)
        return model.logits(model(tokens)[0])[0]

    def of(text):  # causal: what is padded behind does not matter, and one length compiles once
        padded = np.zeros((1, 32), np.int32)
        padded[0, : len(text)] = text
        return np.asarray(all_logits(padded))[len(text) - 1]

    return of


def sample(params, prompts, **options):
    options = {"max_new_tokens": 12, "stop_id": NEVER, **options}
    return generate(MODEL, params, prompts, **options)


def test_greedy_is_the_argmax_of_the_full_forward_pass_token_by_token(params, next_logits):
    for prompt, text in zip(PROMPTS, sample(params, PROMPTS, temperature=0), strict=True):
        expected = list(prompt)
        for _ in range(12):
            expected.append(int(next_logits(expected).argmax()))
        assert prompt + text == expected
        assert len(set(text)) > 2


def test_a_text_does_not_depend_on_what_else_is_in_its_batch(params):
    alone = sample(params, PROMPTS[:1], seed=4)
    assert sample(params, PROMPTS, seed=4)[:1] == alone
    assert sample(params, [PROMPTS[0], [13]], seed=4)[:1] == alone


def test_equal_prompts_get_different_texts(params):
    assert len(set(map(tuple, sample(params, [PROMPTS[0]] * 8)))) == 8


def test_the_same_seed_gives_the_same_texts_and_another_seed_others(params):
    texts = sample(params, PROMPTS, seed=1)
    assert texts == sample(params, PROMPTS, seed=1)
    assert all(a != b for a, b in zip(texts, sample(params, PROMPTS, seed=2), strict=True))


def test_a_text_ends_before_its_stop_token_and_the_others_go_on(params):
    texts = sample(params, PROMPTS, seed=1)
    stop = texts[0][4]
    cut = [text[: text.index(stop)] if stop in text else text for text in texts]
    assert sample(params, PROMPTS, seed=1, stop_id=stop) == cut
    assert len({len(text) for text in cut}) > 1


def test_first_tokens_are_as_frequent_as_the_softmax_at_a_temperature_says(params, next_logits):
    rows = 4096
    for temperature in (1.0, 2.0):
        texts = sample(params, [PROMPTS[0]] * rows, max_new_tokens=1, temperature=temperature)
        seen = np.bincount([text[0] for text in texts], minlength=MODEL.vocab_size) / rows
        expected = np.asarray(jax.nn.softmax(next_logits(PROMPTS[0]) / temperature))
        # Five standard deviations of a share of this many rows.
        assert np.all(np.abs(seen - expected) <= 5 * np.sqrt(expected / rows) + 1e-3)


def test_top_p_draws_from_the_nucleus_alone(params, next_logits):
    probability = np.asarray(jax.nn.softmax(next_logits(PROMPTS[0]) / 3))
    order = np.argsort(-probability)
    before = np.cumsum(probability[order]) - probability[order]
    inside = set(order[before < 0.5].tolist())
    options = {"max_new_tokens": 1, "temperature": 3.0}
    everywhere = {t[0] for t in sample(params, [PROMPTS[0]] * 1024, **options)}
    drawn = {t[0] for t in sample(params, [PROMPTS[0]] * 1024, top_p=0.5, **options)}
    assert drawn == inside and len(everywhere) > len(inside) > 1


@given(
    st.lists(st.integers(-60, 60), min_size=6, max_size=6, unique=True),
    st.floats(0.01, 0.999),
)
def test_the_nucleus_is_the_fewest_tokens_whose_probabilities_reach_top_p(tenths, top_p):
    logits = np.array(tenths, np.float32) / 10
    kept = np.isfinite(np.asarray(nucleus(jnp.asarray(logits), top_p)))
    probability = np.exp(logits.astype(np.float64))
    probability /= probability.sum()
    mass, least = probability[kept].sum(), probability[kept].min()
    assert mass >= top_p - 1e-5 and mass - least < top_p + 1e-5
    assert least > probability[~kept].max(initial=0)


def test_top_p_of_one_keeps_every_token_and_of_next_to_nothing_the_likeliest():
    logits = jnp.array([1.0, -30.0, 3.0, 2.0])
    np.testing.assert_array_equal(nucleus(logits, 1.0), logits)
    for top_p in (1e-6, 0.0):
        assert np.isfinite(np.asarray(nucleus(logits, top_p))).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("prompts", [[], [[1], []]])
def test_a_prompt_without_a_token_is_refused(params, prompts):
    with pytest.raises(ValueError, match="every prompt needs a token"):
        sample(params, prompts)
