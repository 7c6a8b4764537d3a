"""The generation by a model of our own, which has learnt nothing."""

import dataclasses

import jax
import numpy as np
import pytest

from entigraph.generation.generator import generator
from entigraph.generation.stages import generate
from entigraph.library import Text
from sbp_jax.config import (
    DataConfig,
    EngineConfig,
    EntiGraphConfig,
    Experiment,
    ModelConfig,
    to_json,
)
from sbp_jax.data.corpus import open_corpus, read_documents, verify_corpus
from sbp_jax.data.tokenizer import train_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.model.transformer import param_shapes
from sbp_jax.training.checkpoint import save_params

pytestmark = pytest.mark.slow
CONFIG = EntiGraphConfig(chat=False, max_tokens=12, entity_tokens=12, window=10_000)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    model = ModelConfig(
        num_layers=1, d_model=32, num_heads=2, num_kv_heads=1, head_dim=16, d_ff=64, vocab_size=320
    )
    random = np.random.default_rng(0)
    draw = lambda leaf: random.normal(0.2, 0.2, leaf.shape).astype(np.float32)  # noqa: E731
    save_params(folder, jax.tree.map(draw, param_shapes(model)))
    experiment = Experiment(model=model, data=DataConfig(sequence_length=512))
    (folder / "config.json").write_text(to_json(experiment))
    documents = read_documents(open_corpus("toyworld:held_out", experiment), "stop")
    train_tokenizer([document.text for document in documents], 320, folder / "tokenizer")
    return folder


def test_documents_are_windowed_to_the_models_context(run, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/qa.txt").write_text("{text}\nAgain: ")
    library = [Text("a", "A", "", "", "Ada met Bob in the valley of the lamps. " * 40)]
    config = dataclasses.replace(CONFIG, prompts=str(tmp_path / "own"))
    e = Experiment(entigraph=config, engine=EngineConfig(batch_size=4))
    writer = generator("jax", e, str(run), tmp_path / "out")
    assert writer.context == 512
    manifest = generate(e, library, tmp_path / "out", "qa", writer)
    verify_corpus(tmp_path / "out/qa")
    assert manifest["counts"]["errors"] == 0  # every prompt fits
    assert manifest["counts"]["kept"] >= 2 and manifest["tokens"] > 0
    texts = [d.text for d in read_documents(open_corpus(str(tmp_path / "out/qa"), e), "stop")]
    generate(e, library, tmp_path / "again", "qa", writer)
    again = read_documents(open_corpus(str(tmp_path / "again/qa"), e), "stop")
    assert texts == [document.text for document in again]


def test_a_model_that_lists_no_entities_is_told_so(run, tmp_path):
    (tmp_path / "own").mkdir()
    for name in ("entities", "pair", "triple"):
        (tmp_path / f"own/{name}.txt").write_text("{text} {entities}")
    config = dataclasses.replace(CONFIG, prompts=str(tmp_path / "own"))
    e = Experiment(entigraph=config, engine=EngineConfig(batch_size=4))
    writer = generator("jax", e, str(run), tmp_path / "out")
    library = [Text("a", "A", "", "", "Ada met Bob.")]
    with pytest.raises(UserError, match=r"no document has two entities \(1 of 1 answers"):
        generate(e, library, tmp_path / "out", "entigraph", writer)
