"""A small model of random weights, run by the JAX sampler, as researcher: any engine will do."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research_env import env
from research_env.bank import Bank
from research_env.researcher.interface import BASELINE, FRESH, Proposal, Want
from research_env.researcher.opening import open_language
from sbp_jax.config import (
    DataConfig,
    EngineConfig,
    Experiment,
    ModelConfig,
    ResearchConfig,
    to_json,
)
from sbp_jax.data.tokenizer import train_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.model.transformer import param_shapes
from sbp_jax.training.checkpoint import save_params

pytestmark = pytest.mark.slow
CONTEXT = 4096
EFFORT = ResearchConfig(
    chat=False,
    ideas=2,
    samples=2,
    retries=0,
    revisions=0,
    answer_tokens=16,
    context_tokens=32_768,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jax") / "run"
    texts = [word * 5 for word in ("change the code ", "an idea is one ", "settings.py X = 0 ")]
    tokenizer = train_tokenizer(texts * 20, 300, folder / "tokenizer")
    model = ModelConfig(
        num_layers=1,
        d_model=16,
        num_heads=1,
        num_kv_heads=1,
        head_dim=16,
        d_ff=16,
        vocab_size=tokenizer.vocab_size,
    )
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=leaf.shape) * 0.3, np.float32),
        param_shapes(model),
    )
    save_params(folder, params)
    experiment = Experiment(model=model, data=DataConfig(sequence_length=CONTEXT))
    (folder / "config.json").write_text(to_json(experiment))
    return folder


def language_of(run, parabola, research):
    experiment = Experiment(
        engine=EngineConfig(batch_size=2, max_length=CONTEXT), research=research
    )
    return open_language("jax", experiment, str(run), env.load(str(parabola)), "")


@pytest.mark.parametrize("thinking", [0, 8], ids=["plain", "thinking"])
def test_nonsense_becomes_a_change_that_does_not_apply(run, parabola, tmp_path, thinking):
    effort = replace(EFFORT, thinking_tokens=thinking, waits=1, thinking_style="plain")
    language = language_of(run, parabola, effort)
    with Bank(tmp_path / "ideas.db", write=True) as bank:
        bank.add(Proposal("baseline", "The code as it is.", "", kind=BASELINE))
        found = language.propose(bank, Want(FRESH))
        again = language_of(run, parabola, effort).propose(bank, Want(FRESH))
    assert found.title == "no idea" and found.diff and found.author == str(run)
    assert found.cost == 0 and found.tokens > 500  # most of them the prompt's
    assert again == found  # of the same bank and seed, the same
    language.close()


def test_a_model_that_is_not_for_chat_is_refused_with_the_remedy(run, parabola):
    with pytest.raises(UserError, match="no chat template.*--config.research.chat=False"):
        language_of(run, parabola, ResearchConfig())


def test_a_context_that_is_too_small_for_the_code_is_refused(run, parabola, tmp_path):
    language = language_of(run, parabola, replace(EFFORT, answer_tokens=1500))
    with Bank(tmp_path / "ideas.db", write=True) as bank, pytest.raises(UserError, match="context"):
        language.propose(bank, Want(FRESH))
