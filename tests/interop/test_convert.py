"""Folders in both directions: transformers' numbers, our own bits, and every refusal.

A run is a folder with a checkpoint, its config and its tokenizer; these tests write one directly.
"""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbp_jax import convert, parallel
from sbp_jax.config import Experiment, MeshConfig, ModelConfig, to_json
from sbp_jax.data.tokenizer import load_tokenizer, train_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import Request, Sampling
from sbp_jax.inference.sampler import Sampler
from sbp_jax.interop import weights
from sbp_jax.interop.tokenizer_json import to_hugging_face
from sbp_jax.model.transformer import bind, param_metadata, param_shapes
from sbp_jax.train import train
from sbp_jax.training.checkpoint import (
    check_architecture,
    fingerprint,
    load_model,
    restore_params,
    run_config,
    save_params,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = "".join(path.read_text() for path in sorted((REPOSITORY / "sbp_jax").rglob("*.py")))
TEXTS = [SOURCE[i : i + 1000] for i in range(0, len(SOURCE), 1000)]
QWEN3 = ModelConfig(
    num_layers=3,
    d_model=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    d_ff=96,
    vocab_size=512,
    rope_theta=2_000.0,  # not what readers assume when it is missing, 10,000
    norm_eps=1e-3,  # large enough to show where it is added
)
LLAMA = dataclasses.replace(QWEN3, qk_norm=False, tie_embeddings=False, head_dim=16)
LLAMA31 = dataclasses.replace(LLAMA, rope_scaling=8.0, rope_original_context=64)
QWEN2 = dataclasses.replace(QWEN3, qk_norm=False, attention_bias=True, head_dim=16)
MODELS = {
    "qwen3": QWEN3,
    "qwen3_untied": dataclasses.replace(QWEN3, tie_embeddings=False),
    "llama3": LLAMA,
    "llama31": LLAMA31,
    "qwen2": QWEN2,
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


def random_params(model):
    """Large weights, and norms and biases that are not at their initial values."""
    random = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name.endswith("norm"):
            value = random.uniform(0.3, 2.0, leaf.shape)
        else:
            scale = {"embed": 0.3, "b": 1.0}.get(name if name == "embed" else name[0])
            value = random.normal(size=leaf.shape) * (scale or 1.5 * model.d_model**-0.5)
        return jnp.asarray(value, np.float32)

    return jax.tree_util.tree_map_with_path(draw, param_shapes(model))


@pytest.fixture(scope="session")
def sentencepiece(tmp_path_factory):
    return train_tokenizer(TEXTS, 500, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def make_run(tmp_path, sentencepiece):
    def make(model, name="run"):
        save_params(tmp_path / name, random_params(model))
        experiment = Experiment(model=model)
        (tmp_path / name / "config.json").write_text(to_json(experiment))
        sentencepiece.save(tmp_path / name / "tokenizer")
        return tmp_path / name

    return make


@pytest.fixture
def exported(make_run, tmp_path):
    """A small Hugging Face folder, to be damaged."""
    convert.to_hf(str(make_run(QWEN3)), str(tmp_path / "hf"))
    return tmp_path / "hf"


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory):
    """A tokenizer like Llama 3's and Qwen's, as its makers would save it."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>"
    )


@functools.partial(jax.jit, static_argnums=0)
def our_logits(model, params, tokens):
    bound = bind(model, params)
    hidden, _ = bound(tokens)
    return bound.logits(hidden)


def their_model(folder, **options):
    options = {"dtype": torch.float32, "attn_implementation": "eager"} | options
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, **options
    )
    assert not any(report.values()), report
    return model


def assert_same_logits(model, params, theirs, bound=1e-4):
    tokens = np.random.default_rng(1).integers(model.vocab_size, size=(2, 40))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits.float().numpy()
    assert expected.std() > 0.5  # or else a small difference says little
    assert np.abs(np.asarray(our_logits(model, params, tokens)) - expected).max() <= bound


def tree_bytes(tree):
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): np.asarray(x).tobytes() for path, x in flat}


@every_model
def test_there_and_back(make_run, tmp_path, model, monkeypatch, caplog):
    """transformers' logits, and the same bits after the way back; in several files as in one."""
    if model is LLAMA:
        monkeypatch.setattr(weights, "SHARD_BYTES", 100_000)
    run, folder, again = make_run(model), tmp_path / "hf", tmp_path / "again"
    convert.to_hf(str(run), str(folder))
    assert len(list(folder.glob("*.safetensors"))) == 1 or model is LLAMA
    theirs = their_model(folder)
    assert_same_logits(model, random_params(model), theirs)
    convert.from_hf(str(folder), str(again))
    found, params, tokenizer = load_model(again)
    assert found == dataclasses.replace(model, head_dim=found.head_dim)
    assert tree_bytes(params) == tree_bytes(random_params(model))
    text = "def main() -> None:  # </s>\n\t▁"
    assert tokenizer.encode([text]) == load_tokenizer(str(run / "tokenizer")).encode([text])
    # transformers gives every Qwen2 model Qwen2's tokenizer; for the others it reads the folder's.
    reader = transformers.PreTrainedTokenizerFast if model is QWEN2 else transformers.AutoTokenizer
    assert (
        reader.from_pretrained(folder)(text, add_special_tokens=False).input_ids
        == tokenizer.encode([text])[0]
    )
    assert ("load it with PreTrainedTokenizerFast" in caplog.text) == (model is QWEN2)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("model", [QWEN3, LLAMA31, QWEN2], ids=["qwen3", "llama31", "qwen2"])
@pytest.mark.parametrize("shard", ["5GB", "60KB"], ids=["one_file", "sharded"])
def test_a_folder_that_transformers_saved(tmp_path, byte_level, model, shard):
    rope = {"rope_type": "default", "rope_theta": 2_000.0}
    if model is LLAMA31:
        rope |= {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
        rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    kind = "qwen3" if model is QWEN3 else "qwen2" if model is QWEN2 else "llama"
    settings = transformers.AutoConfig.for_model(
        kind,
        vocab_size=512,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=model.head_dim,
        rms_norm_eps=1e-3,
        tie_word_embeddings=model.tie_embeddings,
        rope_parameters=rope,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(settings)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1))
    theirs.save_pretrained(tmp_path / "hf", max_shard_size=shard)
    byte_level.save_pretrained(tmp_path / "hf")
    ends = [byte_level.eos_token_id, 300]
    (tmp_path / "hf" / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    assert (len(list((tmp_path / "hf").glob("*.safetensors"))) > 1) == (shard == "60KB")
    assert convert.from_hf(str(tmp_path / "hf"), str(tmp_path / "run")) == model
    found, params, tokenizer = load_model(tmp_path / "run")
    assert_same_logits(found, params, theirs.eval())
    text = SOURCE[:3000]
    assert tokenizer.encode([text])[0] == byte_level(text, add_special_tokens=False).input_ids

    # And out again: the same weights, and the tokenizer's own files.
    convert.to_hf(str(tmp_path / "run"), str(tmp_path / "out"))
    assert_same_logits(model, params, their_model(tmp_path / "out"))
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert type(loaded) is type(theirs) and loaded(text).input_ids == theirs(text).input_ids
    assert (loaded.bos_token_id, loaded.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert list(tokenizer.stop_ids) == generation.eos_token_id == ends


@every_model
def test_a_folder_is_loaded_as_what_from_hf_makes_of_it(make_run, tmp_path, model):
    folder, converted = tmp_path / "hf", tmp_path / "converted"
    convert.to_hf(str(make_run(model)), str(folder))
    convert.from_hf(str(folder), str(converted))
    (ours, params, tokenizer), expected = load_model(folder), load_model(converted)
    assert ours == expected[0] and tokenizer.fingerprint == expected[2].fingerprint
    assert tree_bytes(params) == tree_bytes(expected[1])
    assert run_config(folder) == run_config(converted)
    mesh = parallel.make_mesh(MeshConfig(fsdp=4, tensor=2), jax.devices()[:8])
    layout = parallel.shardings(mesh, param_metadata(model, "axes"))
    params, _ = restore_params(folder, param_shapes(model), layout)
    assert params["layers"]["wq"].sharding == layout["layers"]["wq"]
    assert tree_bytes(params) == tree_bytes(expected[1])


TRAINING = dataclasses.replace(
    Experiment(),
    data=dataclasses.replace(Experiment().data, input="docstrings", sequence_length=64),
    train=dataclasses.replace(
        Experiment().train, tokens=4 * 8 * 64, batch_size=8, log_every=1, samples=0
    ),
)


def test_training_from_a_folder_is_training_from_what_from_hf_makes_of_it(
    exported, sentencepiece, tmp_path
):
    convert.from_hf(str(exported), str(tmp_path / "converted"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "source.txt").write_text(SOURCE[:200_000])
    lines = {}
    for source in ("hf", "converted"):
        experiment = dataclasses.replace(
            TRAINING,
            model=QWEN3,
            data=dataclasses.replace(TRAINING.data, input=str(tmp_path / "texts")),
            init_from=str(tmp_path / source),
        )
        train(experiment, tmp_path / f"from_{source}")
        kept = load_tokenizer(str(tmp_path / f"from_{source}" / "tokenizer"))
        assert kept.encode(TEXTS) == sentencepiece.encode(TEXTS)
        text = (tmp_path / f"from_{source}" / "metrics.jsonl").read_text()
        clock = ("tokens_per_s", "mfu")
        lines[source] = [
            {k: v for k, v in json.loads(line).items() if k not in clock}
            for line in text.splitlines()
        ]
    assert lines["hf"] == lines["converted"] and len(lines["hf"]) == 4


@pytest.mark.parametrize("source", ["hf", "converted"])
@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": 500_000.0},
        {"norm_eps": 1e-5},
        {"rope_scaling": 8.0},
        {"qk_norm": False},
        {"tie_embeddings": False, "d_ff": 128},
        {"parametrization": "mup_simple"},
    ],
    ids=str,
)
def test_a_config_of_another_architecture_is_refused_by_its_fields(
    exported, tmp_path, source, change
):
    folder = exported
    if source == "converted":
        folder = tmp_path / "converted"
        convert.from_hf(str(exported), str(folder))
    other = dataclasses.replace(QWEN3, **change)
    with pytest.raises(UserError, match="another architecture") as raised:
        check_architecture(folder, other)
    for name, value in change.items():
        right = f"--config.model.{name}={getattr(QWEN3, name)} (not {value})"
        assert right in str(raised.value)
    # Where weights have the same shapes, one may want it so: a longer context, for example.
    if {"rope_theta", "norm_eps", "rope_scaling", "parametrization"} & set(change):
        check_architecture(folder, other, allow_change=True)
    else:
        with pytest.raises(UserError, match="another architecture: .* in the config"):
            check_architecture(folder, other, allow_change=True)
    computed = dataclasses.replace(QWEN3, dtype="bfloat16", scan_layers=False)
    check_architecture(folder, computed)


def test_a_long_conversion_says_how_far_it_is(make_run, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(weights, "PROGRESS_S", 0.0)
    caplog.set_level("INFO", logger="sbp_jax")
    convert.to_hf(str(make_run(QWEN3)), str(tmp_path / "hf"))
    convert.from_hf(str(tmp_path / "hf"), str(tmp_path / "again"))
    for what in ("writing 1 file(s): ", f"reading {tmp_path}/hf: "):
        assert f"{what}0.0 of 0.0 GB, 0:00:00 left" in caplog.text


def test_names_without_prefix_and_spare_tensors_are_read(exported, tmp_path):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(exported / "model.safetensors")
    bare = {name.removeprefix("model."): value for name, value in tensors.items()}
    bare["lm_head.weight"] = bare["embed_tokens.weight"]  # some tied folders carry it
    bare["rotary_emb.inv_freq"] = np.ones(16, np.float32)
    save_file(bare, exported / "model.safetensors")
    convert.from_hf(str(exported), str(tmp_path / "again"))
    assert tree_bytes(load_model(tmp_path / "again")[1]) == tree_bytes(random_params(QWEN3))


def test_bfloat16_is_half_the_size_and_rounded_once(make_run, tmp_path):
    run = make_run(QWEN3)
    convert.to_hf(str(run), str(tmp_path / "hf"), "bfloat16")
    theirs = their_model(tmp_path / "hf", dtype="auto")
    assert {p.dtype for p in theirs.parameters()} == {torch.bfloat16}
    convert.from_hf(str(tmp_path / "hf"), str(tmp_path / "again"))
    rounded = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), random_params(QWEN3)
    )
    assert tree_bytes(load_model(tmp_path / "again")[1]) == tree_bytes(rounded)


def test_the_library_corrupts_a_transposed_array_and_we_do_not(tmp_path):
    from safetensors.numpy import load_file, save_file

    value = np.arange(6, dtype=np.float32).reshape(2, 3).T
    save_file({"w": value}, tmp_path / "theirs.safetensors")
    theirs = load_file(tmp_path / "theirs.safetensors")["w"]
    writer = weights.Writer(tmp_path, {"w": value.shape}, "float32")
    writer.write("w", value)
    writer.close()
    ours = load_file(tmp_path / "model.safetensors")["w"]
    assert np.array_equal(ours, value)
    # When this fails, the library has been mended, and the warnings in interop/ may go.
    assert not np.array_equal(theirs, value)


def test_any_mesh_reads_a_converted_folder(exported, tmp_path):
    convert.from_hf(str(exported), str(tmp_path / "again"))
    mesh = parallel.make_mesh(MeshConfig(fsdp=4, tensor=2), jax.devices()[:8])
    layout = parallel.shardings(mesh, param_metadata(QWEN3, "axes"))
    params, step = restore_params(tmp_path / "again", param_shapes(QWEN3), layout)
    assert step == 0 and len(params["layers"]["wq"].addressable_shards) == 8
    assert tree_bytes(params) == tree_bytes(random_params(QWEN3))


AWKWARD = [
    "▁ a▁b ▁▁ c",
    "\x00",
    "e\u0301\u0301 \u0301 👩‍👩‍👧‍👦🏳️‍🌈 שלום مرحبا \u202eabc\u202c",
    "\r\n\n\t \u2028\u00a0\ufeff\ufffd\u2047",
    "<s></s><unk><pad><0x41><|endoftext|>",
    " " * 10_001,
    "a" * 10_001,
    "ab" * 777 + "aba" * 333,
    SOURCE,
]


@pytest.fixture(scope="module")
def theirs(sentencepiece, tmp_path_factory):
    """The converted tokenizer, as transformers and vLLM load it."""
    folder = tmp_path_factory.mktemp("converted")
    for name, text in to_hugging_face(sentencepiece).items():
        (folder / name).write_text(text)
    return transformers.AutoTokenizer.from_pretrained(folder)


class TestTokenizer:
    @settings(max_examples=500, deadline=None)
    @given(
        text=st.text()
        | st.text(alphabet="▁ \n\t\0a<s>/é👩\u200d\u0301")
        | st.lists(
            st.sampled_from(["    ", " ", "\n", "def", "self", "return", "a", "aa", "ab", "<s>"]),
            max_size=400,
        ).map("".join)
    )
    def test_ids_are_the_same_on_every_text(self, sentencepiece, theirs, text):
        [ids] = sentencepiece.encode([text])
        assert theirs(text, add_special_tokens=False).input_ids == ids
        assert theirs.decode(ids, skip_special_tokens=True) == text

    @pytest.mark.parametrize("text", AWKWARD)
    def test_ids_are_the_same_on_awkward_texts(self, sentencepiece, theirs, text):
        [ids] = sentencepiece.encode([text])
        assert theirs(text, add_special_tokens=False).input_ids == ids
        assert theirs.decode(ids) == text

    def test_special_tokens_are_the_same_and_bos_comes_first(self, sentencepiece, theirs):
        assert theirs.bos_token_id == sentencepiece.bos_id
        assert theirs.eos_token_id == sentencepiece.eos_id
        assert (theirs.pad_token_id, theirs.unk_token_id) == (0, 2)
        assert theirs("a b").input_ids == [sentencepiece.bos_id, *sentencepiece.encode(["a b"])[0]]
        ids = [sentencepiece.bos_id, *sentencepiece.encode(["a"])[0], sentencepiece.eos_id]
        assert theirs.decode(ids, skip_special_tokens=True) == "a"
        assert len(theirs) == sentencepiece.vocab_size

    def test_unigram_is_refused(self, tmp_path):
        unigram = train_tokenizer(TEXTS, 500, tmp_path, kind="unigram")
        with pytest.raises(UserError, match="it is not bpe.*tokenizer.json"):
            to_hugging_face(unigram)


PROMPT = "def main(argument"


def our_greedy(run, count):
    sampling = Sampling(max_tokens=count, temperature=0.0)
    [completion] = Sampler.from_checkpoint(run).generate([Request("1", PROMPT, sampling)])
    return list(completion.tokens)


def test_greedy_tokens_are_those_of_transformers(make_run, tmp_path):
    run = make_run(QWEN3)
    convert.to_hf(str(run), str(tmp_path / "hf"))
    prompt = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")(
        PROMPT, return_tensors="pt"
    )
    model, _, tokenizer = load_model(run)
    # Ours never draws ids that only fill the vocabulary up; without training theirs does.
    padding = list(range(tokenizer.vocab_size, model.vocab_size))
    output = their_model(tmp_path / "hf").generate(
        **prompt, max_new_tokens=32, do_sample=False, suppress_tokens=padding
    )
    ids = output[0, prompt.input_ids.shape[1] :].tolist()
    eos = tokenizer.eos_id
    assert our_greedy(run, 32) == (ids[: ids.index(eos)] if eos in ids else ids)


def rewrite(folder, **changes):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors") | changes
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "model.safetensors")


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def drop_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


def cut(folder, size):
    os.truncate(folder / "model.safetensors", size)


def fewer_ids(folder):
    rewrite(folder, **{"model.embed_tokens.weight": np.ones((100, 64), np.float32)})
    edit_config(folder, vocab_size=100)


def only_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index_of_missing(folder):
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / weights.INDEX).write_text(json.dumps(index))


NORM = "model.layers.1.self_attn.q_norm.weight"


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: rewrite(f, **{NORM: None}), rf"'{NORM}' is missing.*fetch"),
        (lambda f: rewrite(f, score=np.ones(3, np.float32)), "'score' has no place in the model"),
        (lambda f: rewrite(f, **{NORM: np.ones(7, np.float32)}), rf"'{NORM}' has shape \(7,\)"),
        (lambda f: rewrite(f, **{NORM: np.ones(32, np.int8)}), rf"'{NORM}' is I8.*unquantized"),
        (lambda f: edit_config(f, model_type="mamba"), "model_type='mamba' is not supported"),
        (lambda f: edit_config(f, model_type="llama"), "has no place in the model"),
        (lambda f: edit_config(f, vocab_size=100), r"embed_tokens.weight' has shape \(512, 64\)"),
        (fewer_ids, "tokenizer has 500 ids, its model 100"),
        (lambda f: (f / "config.json").unlink(), "no config.json there"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: no config of a model"),
        (
            lambda f: (f / "config.json").write_text("[]"),
            "config of a model .list instead of an object",
        ),
        (lambda f: cut(f, 100_000), "truncated or damaged.*100000 bytes where.*fetch"),
        (lambda f: cut(f, 100), "truncated or damaged.*fetch"),
        (lambda f: cut(f, 0), "truncated or damaged.*fetch"),
        (only_pickle, "pytorch_model.bin: pickled weights.*convert them to safetensors"),
        (index_of_missing, "model-00002-of-00002.safetensors is missing"),
        (lambda f: (f / weights.INDEX).write_text("[]"), "not an index of tensors"),
        (drop_tokenizer, "no tokenizer in this folder"),
        (lambda f: (f / "tokenizer.json").unlink(), "transformers cannot make a tokenizer.json"),
        (lambda f: (f / "model.safetensors").unlink(), "no .safetensors file there"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(exported, tmp_path, damage, message):
    damage(exported)
    with pytest.raises(UserError, match=message) as raised:
        convert.from_hf(str(exported), str(tmp_path / "again"))
    assert "\n" not in str(raised.value)
    assert {p.name for p in tmp_path.iterdir()} == {"run", "hf"}


YARN = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"vocab_size": "x"}, "vocab_size='x' is no whole number above 0"),
        ({"vocab_size": True}, "vocab_size=True is no whole number"),
        ({"hidden_size": 0}, "hidden_size=0 is no whole number above 0"),
        ({"num_attention_heads": None}, "no field 'num_attention_heads'"),
        ({"num_key_value_heads": 2.5}, "num_key_value_heads=2.5 is no whole number"),
        ({"max_position_embeddings": -1}, "max_position_embeddings=-1 is no whole number above 0"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps='x' is no number above 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan is no number above 0"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false' is no true or false"),
        ({"model_type": ["qwen3"]}, "model_type=.'qwen3'. is no text"),
        ({"rope_parameters": 5}, "rope_parameters=5 is no object"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta='x' is no number"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "no field 'factor'"),
        ({"rope_parameters": YARN}, "rope_parameters.rope_type='yarn' is not supported"),
        ({"rope_scaling": YARN}, "rope_scaling.rope_type='yarn' is not supported"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "beside rope_parameters=.* is not supported"),
    ],
)
def test_a_config_of_other_types_is_refused_by_its_field(exported, tmp_path, changes, message):
    edit_config(exported, **changes)
    with pytest.raises(UserError, match=message) as raised:
        convert.from_hf(str(exported), str(tmp_path / "new"))
    assert "\n" not in str(raised.value) and not (tmp_path / "new").exists()


def test_what_exists_is_not_overwritten_and_an_empty_folder_is_used(exported, tmp_path):
    run = str(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in exported.iterdir()}
    with pytest.raises(UserError, match="hf exists; delete it, or name another"):
        convert.to_hf(run, str(exported))
    assert {p.name: p.read_bytes() for p in exported.iterdir()} == before
    with pytest.raises(UserError, match="run exists"):
        convert.from_hf(str(exported), run)
    (tmp_path / "empty").mkdir()
    convert.to_hf(run, str(tmp_path / "empty" / "deep" / "hf"))
    shutil.rmtree(tmp_path / "empty" / "deep")
    convert.to_hf(run, str(tmp_path / "empty"))
    assert {p.name: p.read_bytes() for p in (tmp_path / "empty").iterdir()} == before


def test_what_a_killed_export_left_is_not_taken_for_a_part_of_the_next(exported, tmp_path):
    left = tmp_path / ".again.tmp"
    (left / "tokenizer").mkdir(parents=True)
    (left / "model-00001-of-00002.safetensors").write_bytes(b"half")
    convert.to_hf(str(tmp_path / "run"), str(tmp_path / "again"))
    assert not left.exists()
    names = [{p.name for p in folder.iterdir()} for folder in (exported, tmp_path / "again")]
    assert names[0] == names[1]


def test_a_source_that_is_no_checkpoint_is_refused(exported, tmp_path):
    with pytest.raises(UserError, match="no checkpoint there"):
        convert.to_hf(str(tmp_path / "nowhere"), str(tmp_path / "out"))
    with pytest.raises(UserError, match="hf is a Hugging Face folder.*from-hf"):
        convert.to_hf(str(exported), str(tmp_path / "out"))
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(UserError, match="no config.json there"):
        convert.to_hf(str(tmp_path / "run" / "checkpoints" / "0"), str(tmp_path / "out"))


def test_a_damaged_checkpoint_is_not_exported(make_run, tmp_path):
    run = make_run(QWEN3)
    meta = run / "checkpoints" / "0" / "meta" / "metadata"
    changed = json.loads(meta.read_text())
    changed["checksums"]["params"]["['layers']['wq']"] += 1
    meta.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="layers/wq is damaged.*earlier checkpoint"):
        convert.to_hf(str(run), str(tmp_path / "out"))
    assert {p.name for p in tmp_path.iterdir()} == {"run"}


def test_a_fingerprint_is_of_what_a_model_generates(make_run, tmp_path):
    run = make_run(QWEN3)
    print_ = fingerprint(run)
    assert print_ == fingerprint(run / "checkpoints" / "0") != fingerprint(make_run(LLAMA, "other"))
    edit_config(run, model=dataclasses.asdict(QWEN3) | {"attention": "xla"}, seed=7)
    assert fingerprint(run) == print_
    edit_config(run, model=dataclasses.asdict(QWEN3) | {"rope_theta": 10_000.0})
    assert fingerprint(run) != print_

    folder = tmp_path / "hf"
    convert.to_hf(str(run), str(folder))
    (folder / "notes.md").touch()
    seen = {fingerprint(folder)}
    flip_last_bit(folder / "model.safetensors")
    seen.add(fingerprint(folder))
    edit_config(folder, rms_norm_eps=0.1)
    seen.add(fingerprint(folder))
    flip_last_bit(folder / "tokenizer.json")
    assert len(seen | {fingerprint(folder)}) == 4


def flip_last_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_the_command(exported, tmp_path):
    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "sbp_jax.convert", *arguments],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )

    again = tmp_path / "again"
    finished = command("from-hf", str(exported), str(again))
    assert finished.returncode == 0, finished.stderr
    assert f"--init_from={again}" in finished.stderr
    assert "--config.model.rope_theta=2000.0" in finished.stderr
    finished = command("to-hf", f"{again}/checkpoints/0", str(tmp_path / "out"), "--dtype=bfloat16")
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.startswith(f"{tmp_path}/out: Qwen3ForCausalLM, bfloat16, 0.000")
    assert finished.stderr.count("\n") == 1  # and nothing of Orbax'
    for arguments, message in (
        (["to-hf", "a"], "error: DST is missing"),
        (["sideways", "a", "b"], "error: 'sideways' is no direction"),
        (["from-hf", "a", "b", "--dtype=bfloat16"], "error: from-hf keeps weights in float32"),
    ):
        finished = command(*arguments)
        assert finished.returncode == 2 and finished.stderr.startswith(message), finished.stderr
