"""Where a stop text ends a text, whatever the tokenizer makes of its characters."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbp_jax.data.tokenizer import HuggingFaceTokenizer, train_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import Sampling, stopped

TEXTS = ["So he said: wait. Then we wait.\n\nThe answer is 12.\n", "été à Zürich 日本 🙂🙂"] * 30


def byte_pairs():
    """A tokenizer as Hugging Face's byte-level ones are, with one special id."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<end>"], initial_alphabet=letters, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return HuggingFaceTokenizer(made.to_str(), None, "<end>", {})


@pytest.fixture(scope="module", params=["sentencepiece", "byte pairs"])
def tokenizer(request, tmp_path_factory):
    if request.param == "byte pairs":
        pytest.importorskip("tokenizers")
        return byte_pairs()
    return train_tokenizer(TEXTS, 330, tmp_path_factory.mktemp("tokenizer"))


def expected(tokenizer, tokens, stop):
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:count])
        if any(s in text for s in stop):
            return count, text[: min(text.find(s) for s in stop if s in text)]
    return None


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_it_is_after_the_fewest_tokens_whose_text_has_one(tokenizer, data):
    words = st.sampled_from(["wait", " wait", "\n", "日本", "🙂", "é", " answer is", "12", "x"])
    said = "".join(data.draw(st.lists(words, max_size=30)))
    tokens = tokenizer.encode([said])[0]
    # Bytes out of place, and ids without a text.
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(tokens)))
        tokens.insert(place, data.draw(st.integers(0, tokenizer.vocab_size - 1)))
    stop = tuple(data.draw(st.lists(words, min_size=1, max_size=3)))
    found = stopped(tokenizer, tokens, stop)
    assert found == expected(tokenizer, tokens, stop)
    # In whatever portions they come.
    done, portion = 0, data.draw(st.integers(1, 16))
    while done < len(tokens):
        new = min(done + portion, len(tokens))
        if in_portions := stopped(tokenizer, tokens[:new], stop, done):
            assert in_portions == found
            break
        done = new
    else:
        assert found is None


def test_of_several_the_first_in_the_text_ends_it(tokenizer):
    tokens = tokenizer.encode(["So he said: wait. Then"])[0]
    for stop in (("wait.", "said"), ("said", "wait."), ("said: wait", "said")):
        assert stopped(tokenizer, tokens, stop)[1] == "So he "
    assert stopped(tokenizer, tokens, ("never",)) is None and stopped(tokenizer, tokens, ()) is None


def test_an_empty_one_is_refused():
    with pytest.raises(UserError, match="empty"):
        Sampling(stop=("a", ""))


def test_names_of_requests_without_stop_texts_are_what_they_were_before_there_were_any():
    fields = {"max_tokens", "temperature", "top_p", "top_k", "stop_ids", "logprobs", "schema"}
    assert Sampling().settings().keys() == fields
    assert dataclasses.asdict(Sampling(stop=("a",))) == Sampling(stop=("a",)).settings()
