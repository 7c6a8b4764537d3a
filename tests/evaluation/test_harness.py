"""lm-eval on a model of ours gives what its own hf backend gives on the exported one."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sbp_jax.config import DataConfig, EngineConfig, Experiment, ModelConfig, to_json
from sbp_jax.data.tokenizer import train_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference.sampler import Sampler
from sbp_jax.model.transformer import param_shapes
from sbp_jax.training.checkpoint import save_params

lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("accelerate")

from lm_eval.api.instance import Instance  # noqa: E402

from sbp_jax.evaluation.backends import open_backend  # noqa: E402
from sbp_jax.evaluation.harness import HarnessModel  # noqa: E402

CONTEXT = 64
WORDS = [
    "a",
    "river",
    "is",
    "long",
    "and",
    "old",
    "people",
    "read",
    "of",
    "towns",
    "by",
    "the",
    "water",
    "in",
    "letters,",
    "she",
    "said",
]
ODD = [
    "naïve café",
    "数学 is 1+1=2",
    "that <s> is text",
    " two  spaces ",
    "tab\tand\nline",
    "▁mark",
    "🜁",
]
MODEL = ModelConfig(
    num_layers=2, d_model=64, num_heads=4, num_kv_heads=2, head_dim=32, d_ff=96, vocab_size=380
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    numbers = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key.endswith("norm"):
            value = numbers.uniform(0.3, 2.0, leaf.shape)
        else:
            value = numbers.normal(size=leaf.shape) * (0.3 if path[-1].key == "embed" else 0.2)
        if path[-1].key == "embed":
            value[:260] = 0  # special ones and bytes: bad UTF-8 is two texts for two decoders
        return jnp.asarray(value, np.float32)

    save_params(folder, jax.tree_util.tree_map_with_path(draw, param_shapes(MODEL)))
    experiment = Experiment(model=MODEL, data=DataConfig(sequence_length=CONTEXT))
    (folder / "config.json").write_text(to_json(experiment))
    texts = [" ".join(random.Random(i).choices(WORDS, k=60)) for i in range(100)] + ODD * 5
    train_tokenizer(texts, MODEL.vocab_size, folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def models(run, tmp_path_factory):
    ours = HarnessModel(Sampler.from_checkpoint(str(run), EngineConfig(batch_size=8)))
    export_to = tmp_path_factory.mktemp("exported")
    theirs = open_backend("hf", str(run), export_to, EngineConfig(batch_size=4))
    return ours, theirs


def words(chance, least, most):
    return " ".join(chance.choices(WORDS, k=chance.randint(least, most)))


def requests(kind, arguments):
    return [Instance(kind, {}, args, number) for number, args in enumerate(arguments)]


def agree(ours, theirs):
    for (logprob, greedy), (expected, expected_greedy) in zip(ours, theirs, strict=True):
        assert logprob == pytest.approx(expected, abs=1e-3)
        assert greedy == expected_greedy


def test_log_likelihoods_are_those_of_the_hf_backend(models):
    chance = random.Random(0)
    arguments = []
    for _ in range(25):
        context = words(chance, 1, 20)
        arguments += [(context, f" {words(chance, 1, 6)}") for _ in range(4)]
    agree(*(model.loglikelihood(requests("loglikelihood", arguments)) for model in models))


def test_contexts_that_are_empty_odd_or_too_long_are_read_alike(models):
    chance = random.Random(1)
    arguments = [("", "A river"), ("", " is"), ("A river ", "is long"), ("A\n", "B")]
    arguments += [(text, " and") for text in ODD] + [("river", text) for text in ODD]
    arguments += [(words(chance, 80, 200), f" {words(chance, 1, 30)}") for _ in range(8)]
    agree(*(model.loglikelihood(requests("loglikelihood", arguments)) for model in models))


def test_greedy_is_what_generation_would_say(models):
    """The flag that WebQS and LAMBADA count is true for the model's own greedy text."""
    ours, theirs = models
    contexts = [words(random.Random(i), 3, 10) for i in range(6)]
    settings = {"until": [], "do_sample": False, "max_gen_toks": 3}
    texts = ours.generate_until(requests("generate_until", [(c, settings) for c in contexts]))
    arguments = [(c, t) for c, t in zip(contexts, texts, strict=True) if t.strip()]
    answers = ours.loglikelihood(requests("loglikelihood", arguments))
    agree(answers, theirs.loglikelihood(requests("loglikelihood", arguments)))
    assert any(greedy for _, greedy in answers)


def test_rolling_log_likelihoods_are_those_of_the_hf_backend(models):
    chance = random.Random(2)
    texts = [words(chance, 1, 300) for _ in range(12)] + ODD
    sums = [
        model.loglikelihood_rolling(requests("loglikelihood_rolling", [(t,) for t in texts]))
        for model in models
    ]
    assert sums[0] == pytest.approx(sums[1], abs=1e-3 * CONTEXT)


@pytest.mark.slow
def test_greedy_generations_are_those_of_the_hf_backend(models):
    chance = random.Random(3)
    arguments = []
    for until in (["\n", ".", ","], ["an", "ri"], []):
        settings = {"until": until, "do_sample": False, "temperature": 0.0, "max_gen_toks": 24}
        arguments += [(words(chance, 1, 120), settings) for _ in range(8)]
    texts = [model.generate_until(requests("generate_until", arguments)) for model in models]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 12


def test_what_does_not_fit_is_refused_by_name(models):
    ours, _ = models
    long = " ".join(WORDS * 20)
    with pytest.raises(
        UserError, match=f"an answer of .* tokens, the model a context of {CONTEXT}"
    ):
        ours.loglikelihood(requests("loglikelihood", [("a", f" {long}")]))
    settings = {"until": ["."], "max_gen_toks": CONTEXT}
    with pytest.raises(UserError, match="lower generation_kwargs.max_gen_toks"):
        ours.generate_until(requests("generate_until", [("a", settings)]))
    for name, value in (("num_beams", 4), ("repetition_penalty", 1.2), ("temperature", -1)):
        settings = {"until": ["."], "max_gen_toks": 4, name: value} | {"do_sample": True}
        with pytest.raises(UserError, match=f"generates with {name}={value}.* --engine=hf"):
            ours.generate_until(requests("generate_until", [("a", settings)]))
    settings = {"until": ["."], "max_gen_toks": 4, "num_beams": 1}
    assert ours.generate_until(requests("generate_until", [("a", settings)]))
