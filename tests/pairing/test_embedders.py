"""Vectors by every embedder: what they are, that engines agree, that nothing else shows in them."""

import dataclasses
import importlib.util
import json
import os

import jax
import numpy as np
import pytest

from sbp_jax.config import DataConfig, EngineConfig, Experiment, ModelConfig, PairingConfig, to_json
from sbp_jax.data.corpus import open_corpus, read_documents
from sbp_jax.data.tokenizer import train_tokenizer
from sbp_jax.model.transformer import bind, param_shapes
from sbp_jax.pairing import hidden, lexical
from sbp_jax.pairing.embed import find_neighbors
from sbp_jax.pairing.hidden import HiddenStates
from sbp_jax.training.checkpoint import load_model, save_params

EXPERIMENT = Experiment(
    toyworld=dataclasses.replace(Experiment().toyworld, documents=40), data=DataConfig(workers=1)
)
TEXTS = [d.text for d in read_documents(open_corpus("toyworld", EXPERIMENT), "stop")]


def unit(vectors):
    return np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


class TestLexical:
    def embed(self, texts, dimensions=1024):
        return lexical.embed(texts, lexical.weights(lexical.count(texts), len(texts)), dimensions)

    def test_inner_products_are_those_of_tf_idf_give_or_take_the_projection(self):
        vocabulary = sorted({w for t in TEXTS for w in lexical.normal_form(t).split()})
        counts = np.array(
            [[lexical.normal_form(t).split().count(w) for w in vocabulary] for t in TEXTS]
        )
        idf = np.log((1 + len(TEXTS)) / (1 + (counts > 0).sum(axis=0)))
        exact = np.where(counts, 1 + np.log(np.maximum(counts, 1)), 0) * idf
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        vectors = self.embed(TEXTS, 1 << 14)
        assert unit(vectors)
        off = vectors @ vectors.T - exact @ exact.T
        assert np.sqrt(np.mean(off**2)) < 1 / np.sqrt(1 << 14) and np.abs(off).max() < 0.1

    def test_a_text_has_its_vector_whatever_stands_beside_it(self):
        weights = lexical.weights(lexical.count(TEXTS), len(TEXTS))
        together = lexical.embed(TEXTS, weights, 256)
        for i in (0, 7, 39):
            np.testing.assert_array_equal(lexical.embed([TEXTS[i]], weights, 256)[0], together[i])
        long = [" ".join(TEXTS) * 40, TEXTS[3]]  # over one batch of hashes
        np.testing.assert_array_equal(lexical.embed(long, weights, 256)[1], together[3])

    def test_words_that_all_have_and_texts_without_words_count_nothing(self):
        vectors = self.embed(["the cat", "the dog", "the", "?!", ""])
        assert not vectors[3:].any() and unit(vectors[:2])
        np.testing.assert_array_equal(
            self.embed(["The CAT!", "a"])[0], self.embed(["the cat", "a"])[0]
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder, with a model that has learnt nothing."""
    folder = tmp_path_factory.mktemp("run") / "run"
    model = ModelConfig(
        num_layers=2, d_model=32, num_heads=2, num_kv_heads=1, head_dim=16, d_ff=64, vocab_size=320
    )
    random = np.random.default_rng(0)
    draw = lambda leaf: random.normal(0.2, 0.2, leaf.shape).astype(np.float32)  # noqa: E731
    save_params(folder, jax.tree.map(draw, param_shapes(model)))
    experiment = Experiment(model=model, data=DataConfig(sequence_length=128))
    (folder / "config.json").write_text(to_json(experiment))
    train_tokenizer(TEXTS, 320, folder / "tokenizer")
    return folder


def test_self_is_the_mean_of_the_documents_hidden_states(run, monkeypatch):
    monkeypatch.setitem(hidden.PROGRAM_TOKENS, "cpu", 256)
    config, params, tokenizer = load_model(run)
    texts = [*TEXTS[:6], "one", " ".join(TEXTS)]  # the last is cut to the model's context
    vectors = HiddenStates(PairingConfig(embedder="self"), str(run))(texts)
    for text, vector in zip(texts, vectors, strict=True):
        ids = [tokenizer.bos_id, *tokenizer.encode([text])[0]][:128]
        states, _ = bind(config, params)(np.array([ids]))
        np.testing.assert_allclose(vector, np.mean(states[0, 1:], axis=0), atol=1e-5)


def test_self_vectors_of_a_corpus_have_its_mean_taken_out_and_unit_length(run, tmp_path):
    experiment = dataclasses.replace(EXPERIMENT, pairing=PairingConfig(embedder="self"))
    corpus = open_corpus("toyworld", experiment)
    manifest = find_neighbors(corpus, experiment, tmp_path / "neighbors", str(run))
    vectors = np.load(tmp_path / "neighbors" / "vectors.npy")
    raw = HiddenStates(experiment.pairing, str(run))(TEXTS).astype(np.float64)
    expected = raw - raw.mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-3)
    assert manifest["documents"] == 40 and len(manifest["model"]) == 64


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    """Like Qwen3-Embedding: names without a prefix, an end-of-text that is not the chats' end."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    import torch

    folder = tmp_path_factory.mktemp("qwen3") / "model"
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_end|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    end = tokenizers.processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.post_processor = end
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    settings = transformers.AutoConfig.for_model(
        "qwen3",
        vocab_size=512,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=256,
        dtype="float32",
    )
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"architectures": ["Qwen3ForCausalLM"]}
    path.write_text(json.dumps(config))
    return folder


def pairing_of(folder, **changes):
    return PairingConfig(embedder="qwen3", model=str(folder), max_tokens=64, **changes)


SOME = [*TEXTS[:12], "one", " ".join(TEXTS)]


def test_qwen3_is_the_state_at_the_end_of_text_which_cutting_keeps(qwen3):
    import torch
    import transformers

    vectors = HiddenStates(pairing_of(qwen3), None)(SOME)
    model = transformers.AutoModel.from_pretrained(qwen3)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(qwen3)
    for text, vector in zip(SOME, vectors, strict=True):
        ids = tokenizer(text).input_ids
        assert ids[-1] == 0 != tokenizer.eos_token_id
        ids = [*ids[:-1][:63], 0]
        with torch.no_grad():
            state = model(torch.tensor([ids])).last_hidden_state[0, -1]
        expected = torch.nn.functional.normalize(state, dim=0).numpy()
        np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_agrees_to_a_thousandth(qwen3, monkeypatch):
    if not importlib.util.find_spec("vllm"):
        pytest.skip("vllm is not installed")
    from sbp_jax.pairing.vllm import VllmEmbedder

    before = dict(os.environ)
    try:
        theirs = VllmEmbedder(pairing_of(qwen3, engine="vllm"), EngineConfig(batch_size=4))
        try:
            vectors = theirs(SOME)
        finally:
            theirs.close()
    finally:
        os.environ.clear()
        os.environ.update(before)
    np.testing.assert_allclose(vectors, HiddenStates(pairing_of(qwen3), None)(SOME), atol=1e-3)
