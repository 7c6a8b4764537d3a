"""Conversations as rows: the loss counts answers, and nothing of what they answer."""

import json

import numpy as np
import pytest
from etils import epath

from entigraph.instruct import write_store
from sbp_jax.config import DataConfig, Experiment
from sbp_jax.data.loader import Windows
from sbp_jax.data.tokenizer import load_tokenizer, train_tokenizer
from sbp_jax.data.tokens import TokenStore
from sbp_jax.errors import UserError

E = Experiment(data=DataConfig(sequence_length=160, text_field="prompt"))
TALK = [
    {"role": "user", "content": "Who lives in the tower?"},
    {"role": "assistant", "content": "The miller."},
    {"role": "user", "content": "And who else?"},
    {"role": "assistant", "content": "Nobody at all."},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [f"{m['content']} User: Assistant: {n}" for m in TALK for n in range(30)]
    train_tokenizer(texts, 300, folder, kind="bpe", seed=0)
    return load_tokenizer(str(folder))


def written(folder, rows, tokenizer):
    (folder / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = write_store(E, str(folder / "talk.jsonl"), tokenizer, epath.Path(folder / "store"))
    return manifest, Windows(TokenStore(epath.Path(folder / "store")), "all", 160, True)


def test_each_answer_is_learnt_after_what_was_said_before_it(tmp_path, tokenizer):
    row = {"prompt": TALK[0]["content"], "messages": TALK}
    manifest, windows = written(tmp_path, [row], tokenizer)
    assert manifest["examples"] == 2 and manifest["left_out"] == 0
    batch = windows.read(np.arange(len(windows)))
    learnt = batch["targets"][batch["weights"] > 0]
    ends = np.flatnonzero(learnt == tokenizer.eos_id)
    answers = [tokenizer.decode(part) for part in np.split(learnt, ends + 1)[:-1]]
    assert sorted(answers) == ["Nobody at all.", "The miller."]
    texts = tokenizer.decode(batch["inputs"].ravel().tolist())
    assert "User: Who lives in the tower?" in texts and "Assistant: The miller." in texts


def test_what_is_no_conversation_is_a_users_mistake(tmp_path, tokenizer):
    with pytest.raises(UserError, match="`messages` is no list"):
        written(
            tmp_path, [{"prompt": "x", "messages": [{"role": "bot", "content": "y"}]}], tokenizer
        )
