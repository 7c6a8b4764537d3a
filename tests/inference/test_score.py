"""Log-probabilities of given texts do not depend on what else is scored, nor on sharing."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbp_jax.config import MeshConfig, ModelConfig
from sbp_jax.inference import score
from sbp_jax.inference.sampler import Sampler
from sbp_jax.inference.score import Scorer
from sbp_jax.model import transformer
from sbp_jax.parallel import make_mesh

SPEC = importlib.util.spec_from_file_location(
    "numpy_oracle", Path(__file__).parents[1] / "model" / "numpy_oracle.py"
)
oracle = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(oracle)

VOCABULARY = 48
MODEL = ModelConfig(
    num_layers=2,
    d_model=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=64,
    vocab_size=VOCABULARY,
)


class Ids:
    vocab_size, bos_id, eos_id, stop_ids, fingerprint = VOCABULARY, 0, 1, (1,), "ids"


@pytest.fixture(scope="module")
def params():
    """Layers large enough that each next token depends on those before."""
    made = transformer.init_params(MODEL, 3)
    return {**made, "layers": jax.tree.map(lambda x: x * 2, made["layers"])}


def make_scorer(params, devices=1):
    mesh = make_mesh(MeshConfig(replica=-1, fsdp=1), jax.devices()[:devices])
    return Scorer(Sampler(MODEL, params, Ids(), max_length=200, batch_size=8, mesh=mesh))


@pytest.fixture(scope="module")
def scorer(params):
    return make_scorer(params)


def scored(scorer, sequences):
    found = {one.number: one for one in scorer.score(sequences)}
    assert sorted(found) == list(range(len(sequences)))
    return [found[number] for number in range(len(sequences))]


def expected(params, tokens, start):
    logits = oracle.logits(params, MODEL, np.array(tokens[:-1]))[start - 1 :]
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    after = tokens[start:]
    return logprobs[np.arange(len(after)), after], logits.argmax(-1) == after


def agree(params, sequences, found):
    for (tokens, start), one in zip(sequences, found, strict=True):
        logprobs, greedy = expected(params, tokens, start)
        np.testing.assert_allclose(one.logprobs, logprobs, atol=2e-5)
        assert (one.greedy == greedy).all()


TOKEN = st.integers(0, VOCABULARY - 1)
# Few tokens and beginnings, so that sequences branch, repeat and stand upon one another.
SEQUENCE = st.tuples(
    st.lists(st.integers(5, 7), min_size=1, max_size=12), st.lists(TOKEN, min_size=1, max_size=4)
)


@settings(max_examples=25)
@given(st.lists(SEQUENCE, min_size=1, max_size=12))
def test_every_sequence_of_a_forest_is_scored_as_if_it_was_alone(scorer, params, drawn):
    sequences = [(context + continuation, len(context)) for context, continuation in drawn]
    agree(params, sequences, scored(scorer, sequences))


def test_sequences_of_all_lengths_are_scored_in_one_call(scorer, params):
    random = np.random.default_rng(0)
    sequences = [
        (random.integers(0, VOCABULARY, length).tolist(), start)
        for length, start in [(2, 1), (190, 1), (150, 149), (40, 20), (129, 1), (128, 64), (3, 2)]
    ]
    agree(params, sequences, scored(scorer, sequences))


def test_many_answers_of_one_token_fit_where_their_question_does(scorer, params):
    question = list(range(2, 40))
    sequences = [(question + [answer % VOCABULARY], len(question)) for answer in range(600)]
    found = scored(scorer, sequences)
    agree(params, sequences[:VOCABULARY], found[:VOCABULARY])
    for number, one in enumerate(found):
        assert one.logprobs == pytest.approx(found[number % VOCABULARY].logprobs, abs=1e-6)


@pytest.fixture
def rows(monkeypatch):
    """Those that are scored from now on."""
    seen = []
    read = score._read
    monkeypatch.setattr(
        score, "_read", lambda some, result: seen.extend(some) or read(some, result)
    )
    return seen


def test_a_beginning_is_computed_once_for_all_that_share_it(scorer, rows):
    examples = list(range(2, 40)) * 3
    sequences = [
        (examples + [question, 41, answer], len(examples) + 2)
        for question in range(2, 40)
        for answer in (3, 4, 5, 6)
    ]
    scored(scorer, sequences)
    assert sum(row.size for row in rows) == len(examples) + 38 * 2


def test_where_nothing_is_shared_rows_are_short_and_filled_up(scorer, rows):
    random = np.random.default_rng(2)
    lengths = [190] * 10 + [60] * 10
    sequences = [(random.integers(0, VOCABULARY, n).tolist(), n - 1) for n in lengths]
    scored(scorer, sequences)
    assert {len(row.tokens) for row in rows} == {256}
    assert len(rows) <= 12  # ten would hold them all


@pytest.mark.parametrize("devices", [2, 4])
def test_a_mesh_gives_the_same_numbers(scorer, params, devices):
    random = np.random.default_rng(1)
    sequences = [(random.integers(0, VOCABULARY, 100).tolist(), 60) for _ in range(30)]
    on_mesh = scored(make_scorer(params, devices), sequences)
    for one, other in zip(scored(scorer, sequences), on_mesh, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)


def test_a_bfloat16_model_scores_within_its_precision(params):
    config = dataclasses.replace(MODEL, dtype="bfloat16")
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    scorer = Scorer(Sampler(config, params, Ids(), max_length=200, batch_size=8, mesh=mesh))
    tokens = list(range(2, 40))
    [found] = scored(scorer, [(tokens, 1)])
    logprobs, _ = expected(params, tokens, 1)
    np.testing.assert_allclose(found.logprobs, logprobs, atol=0.15)
