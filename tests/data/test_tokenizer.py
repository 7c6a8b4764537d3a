import json
import pickle

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sbp_jax.data.tokenizer import load_tokenizer, train_tokenizer
from sbp_jax.errors import UserError

STARTS = ["ba", "ko", "ri", "ten", "mul", "sha", "dor", "el", "qui", "naï", "véz", "tra", "low"]
WORDS = [a + b + c for a in STARTS for b in STARTS[::2] for c in STARTS[::3]]
TEXTS = [
    " ".join(WORDS[(i * 7 + j * j) % len(WORDS)] for j in range(30))
    + f" — 1984, 2024.\n\n\tif x{i}:\n        return quick brown\n"
    for i in range(200)
]
AWKWARD = [
    "",
    "▁",
    "a▁b ▁▁ c",
    "\x00",
    "e\u0301\u0301 \u0301",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "שלום עולם مرحبا \u202eabc\u202c",
    "\r\n\n\t \u2028\u00a0\ufeff\ufffd\u2047",
    "   x    y  ",
    "<s></s><unk><pad><0x41><|endoftext|>",
]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return train_tokenizer(TEXTS, 400, folder, kind=request.param), folder


@pytest.fixture(scope="module")
def hugging_face_folder(tmp_path_factory):
    """A byte-level BPE like Llama 3's, with all in its file that could spoil plain encoding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|begin_of_text|>", "<|end_of_text|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding()
    folder = tmp_path_factory.mktemp("hugging_face")
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {
        "bos_token": "<|begin_of_text|>",
        "eos_token": {"content": "<|end_of_text|>", "lstrip": False},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(special | {"model_max_length": 8}))
    return folder


class TestSentencePiece:
    @settings(max_examples=300, deadline=None)
    @given(text=st.text() | st.text(alphabet="▁ \n\t\0a<s>/é👩\u200d\u0301"))
    @example(text="".join(AWKWARD))
    def test_every_unicode_text_survives_the_round_trip(self, trained, text):
        tokenizer, _ = trained
        [ids] = tokenizer.encode([text])
        assert tokenizer.decode(ids) == text

    @pytest.mark.parametrize("text", AWKWARD)
    def test_awkward_texts_survive_beside_others_in_a_batch(self, trained, text):
        tokenizer, _ = trained
        rows = tokenizer.encode(["before", text, "▁after"])
        assert [tokenizer.decode(row) for row in rows] == ["before", text, "▁after"]

    def test_special_ids_are_pinned_and_no_text_yields_them(self, trained):
        tokenizer, _ = trained
        assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.stop_ids) == (1, 3, (1,))
        assert not {0, 1, 2, 3} & {i for row in tokenizer.encode(AWKWARD) for i in row}
        assert tokenizer.decode([3, *tokenizer.encode(["hi"])[0], 1]) == "hi"

    def test_digits_stand_alone_and_indentation_is_short(self, trained):
        tokenizer, folder = trained
        assert len(tokenizer.encode(["1984"])[0]) == 4
        if "bpe" in folder.name:  # unigram learns runs of spaces only where they are frequent
            assert len(tokenizer.encode([" " * 8])[0]) < 8

    def test_training_is_reproducible_and_its_folder_gives_the_same_tokenizer(
        self, trained, tmp_path
    ):
        tokenizer, folder = trained
        kind = folder.name.rstrip("0123456789")
        again = train_tokenizer(iter(TEXTS), 400, tmp_path, kind=kind)
        assert again.fingerprint == tokenizer.fingerprint
        for path in (folder, folder / "tokenizer.model", f"seqio:{folder / 'tokenizer.model'}"):
            assert load_tokenizer(str(path)).fingerprint == tokenizer.fingerprint

    def test_other_text_gives_another_fingerprint(self, trained, tmp_path):
        assert train_tokenizer(TEXTS[:150], 400, tmp_path).fingerprint != trained[0].fingerprint

    def test_pickling_keeps_it_whole(self, trained):
        copy = pickle.loads(pickle.dumps(trained[0]))
        assert copy.encode(AWKWARD) == trained[0].encode(AWKWARD)

    @pytest.mark.parametrize("wrong", [-1, 400, 2**40])
    def test_ids_of_another_vocabulary_are_refused(self, trained, wrong):
        with pytest.raises(UserError, match=rf"token id {wrong} is outside .* 0\.\.399"):
            trained[0].decode([5, wrong])


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_too_large_for_the_text_names_one_that_fits(tmp_path, kind):
    with pytest.raises(UserError, match=r"--config\.model\.vocab_size=\d+$") as refusal:
        train_tokenizer(TEXTS[:5], 30_000, tmp_path / "too_large", kind=kind)
    assert not (tmp_path / "too_large").exists()
    fits = int(str(refusal.value).rpartition("=")[2])
    assert train_tokenizer(TEXTS[:5], fits, tmp_path, kind=kind).vocab_size == fits


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_too_small_for_the_characters_names_the_least(tmp_path, kind):
    with pytest.raises(UserError, match=r"too small .*vocab_size=\d+ is the least") as refusal:
        train_tokenizer(TEXTS, 100, tmp_path, kind=kind)
    least = int(str(refusal.value).split("vocab_size=")[1].split()[0])
    assert train_tokenizer(TEXTS, least, tmp_path, kind=kind).vocab_size == least


def test_no_text_and_an_unknown_kind_are_refused(tmp_path):
    with pytest.raises(UserError, match="no text"):
        train_tokenizer(["", ""], 300, tmp_path)
    with pytest.raises(UserError, match="no text"):
        train_tokenizer(["\0\0\0"], 300, tmp_path)
    with pytest.raises(UserError, match="tokenizer_kind 'wordpiece'"):
        train_tokenizer(TEXTS, 300, tmp_path, kind="wordpiece")


def test_training_says_nothing_on_the_terminal(tmp_path, capfd):
    train_tokenizer(TEXTS, 400, tmp_path)
    with pytest.raises(UserError):
        train_tokenizer(TEXTS, 30_000, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_one_long_line_is_learnt_from_like_many_short_ones(tmp_path):
    one_line = " ".join(" ".join(TEXTS).split())
    tokenizer = train_tokenizer([one_line], 400, tmp_path)
    assert len(tokenizer.encode(["quick brown"])[0]) < len("quick brown") / 2


def test_a_model_with_a_dummy_prefix_still_loads_and_encodes_as_it_was_made_to(tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(tmp_path / "t5"),
        vocab_size=100,
        minloglevel=2,
    )
    tokenizer = load_tokenizer(str(tmp_path / "t5.model"))
    expected = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "t5.model"))
    assert tokenizer.encode(["the▁fox", "x"]) == expected.encode(["the▁fox", "x"])
    assert tokenizer.decode(tokenizer.encode(["the fox"])[0]) == "the fox"


def test_a_seqio_vocabulary_gives_the_same_ids(trained):
    seqio = pytest.importorskip("seqio")
    tokenizer, folder = trained
    vocabulary = seqio.SentencePieceVocabulary(str(folder / "tokenizer.model"))
    texts = [text for text in TEXTS + AWKWARD if "▁" not in text]
    assert load_tokenizer(f"seqio:{folder}/tokenizer.model").encode(texts) == [
        vocabulary.encode(text) for text in texts
    ]


class TestHuggingFace:
    @settings(max_examples=200, deadline=None)
    @given(text=st.text())
    @example(text="".join(AWKWARD))
    @example(text="longer than the eight tokens at which the file says to truncate " * 3)
    def test_every_unicode_text_survives_the_round_trip(self, hugging_face_folder, text):
        tokenizer = load_tokenizer(str(hugging_face_folder))
        [ids] = tokenizer.encode([text])
        assert tokenizer.decode(ids) == text

    def test_texts_of_a_batch_do_not_pad_each_other(self, hugging_face_folder):
        tokenizer = load_tokenizer(str(hugging_face_folder))
        assert tokenizer.encode(["x", "a longer neighbour"])[0] == tokenizer.encode(["x"])[0]

    def test_special_tokens_in_the_text_are_text(self, hugging_face_folder):
        tokenizer = load_tokenizer(str(hugging_face_folder))
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 400)
        for each in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
            [ids] = each.encode(["<|begin_of_text|>hi<|end_of_text|><|endoftext|>"])
            assert not {0, 1, 2} & set(ids)
        assert tokenizer.decode([0, *tokenizer.encode(["hi"])[0], 1]) == "hi"

    def test_a_saved_folder_is_the_same_tokenizer_and_still_one_for_transformers(
        self, hugging_face_folder, tmp_path
    ):
        tokenizer = load_tokenizer(str(hugging_face_folder))
        tokenizer.save(tmp_path)
        assert load_tokenizer(str(tmp_path)).fingerprint == tokenizer.fingerprint
        transformers = pytest.importorskip("transformers")
        theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path), local_files_only=True)
        assert theirs.eos_token_id == 1
        assert (
            theirs.encode("the quick", add_special_tokens=False)
            == tokenizer.encode(["the quick"])[0]
        )

    def test_end_of_text_comes_from_the_model_config_if_from_nowhere_else(
        self, hugging_face_folder, tmp_path
    ):
        (tmp_path / "tokenizer.json").write_bytes(
            (hugging_face_folder / "tokenizer.json").read_bytes()
        )
        with pytest.raises(UserError, match="no eos_token in .*config.json"):
            load_tokenizer(str(tmp_path))
        (tmp_path / "config.json").write_text('{"eos_token_id": [2, 1], "bos_token_id": null}')
        tokenizer = load_tokenizer(str(tmp_path))
        assert (tokenizer.bos_id, tokenizer.eos_id) == (None, 2)
        tokenizer.save(tmp_path / "saved")
        assert load_tokenizer(str(tmp_path / "saved")).fingerprint == tokenizer.fingerprint

    @pytest.mark.parametrize(
        ("generation", "config", "stop_ids"),
        [
            ([2, 1], None, (1, 2)),
            (None, [2, 1, 399], (1, 2, 399)),
            (2, 399, (1, 2)),
            (None, None, (1,)),
        ],
    )
    def test_every_end_of_text_stays_with_the_tokenizer(
        self, hugging_face_folder, tmp_path, generation, config, stop_ids
    ):
        for file in hugging_face_folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        for name, ids in (("generation_config", generation), ("config", config)):
            (tmp_path / f"{name}.json").write_text(json.dumps({"eos_token_id": ids}))
        tokenizer = load_tokenizer(str(tmp_path))
        assert tokenizer.eos_id == 1  # the tokenizer's own, which separates documents
        assert tokenizer.fingerprint == load_tokenizer(str(hugging_face_folder)).fingerprint
        tokenizer.save(tmp_path / "saved")
        saved = load_tokenizer(str(tmp_path / "saved"))
        for each in (tokenizer, saved, pickle.loads(pickle.dumps(saved))):
            assert each.stop_ids == stop_ids

    def test_the_old_format_is_converted(self, tmp_path):
        pytest.importorskip("transformers")
        vocabulary = {c: i for i, c in enumerate("abcĠ")} | {"ab": 4, "<|endoftext|>": 5}
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
        (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
        (tmp_path / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}'
        )
        tokenizer = load_tokenizer(str(tmp_path))
        assert tokenizer.encode(["abc ab"]) == [[4, 2, 3, 4]]
        assert tokenizer.eos_id == 5

    def test_ids_of_another_vocabulary_are_refused(self, hugging_face_folder):
        with pytest.raises(UserError, match="token id 400 is outside"):
            load_tokenizer(str(hugging_face_folder)).decode([400])


class TestWhatIsNoTokenizer:
    def test_a_missing_path_names_what_may_stand_there(self, tmp_path):
        with pytest.raises(
            UserError, match=r"nowhere.model.*is not there.*leave data.tokenizer empty"
        ):
            load_tokenizer(str(tmp_path / "nowhere.model"))

    def test_a_file_of_something_else(self, tmp_path):
        (tmp_path / "x.model").write_bytes(b"garbage")
        with pytest.raises(UserError, match=r"x\.model: not a SentencePiece model"):
            load_tokenizer(str(tmp_path / "x.model"))

    def test_a_folder_of_something_else(self, tmp_path):
        with pytest.raises(UserError, match="no tokenizer in this folder"):
            load_tokenizer(str(tmp_path))

    @pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
    def test_a_damaged_file_is_named(self, hugging_face_folder, tmp_path, name):
        for file in hugging_face_folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / name).write_text('{"model": ')
        with pytest.raises(UserError, match=rf"{tmp_path}: {name} "):
            load_tokenizer(str(tmp_path))
