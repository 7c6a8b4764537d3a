"""What is trained on and what scores are apart, and made anew they are the same."""

import numpy as np
import pytest

from research_env import env
from research_env.envs.nanogpt import prepare
from research_env.patching import patch
from sbp_jax.errors import UserError

SHAPE = prepare.Shape(context=8, rows=10, vocabulary=256)


def folder_of_bins(tmp_path, tokens, magic=20240520):
    for kind in ("train", "val"):
        header = np.zeros(256, "<i4")
        header[:3] = magic, 1, len(tokens)
        data = header.tobytes() + tokens.astype("<u2").tobytes()
        (tmp_path / f"fineweb_{kind}_000001.bin").write_bytes(data)
    return tmp_path


def test_a_tape_holds_each_text_once_after_a_zero_whatever_their_order():
    texts = [f"text {i}: " + 60 * "x" for i in range(5)] + ["short"]
    tape = prepare.tape(texts)
    assert (tape == prepare.tape(reversed(texts + texts))).all()
    assert sorted(bytes(tape.astype(np.uint8)).decode()[1:].split("\0")) == sorted(texts[:5])


def test_splits_are_disjoint_rows_and_shards_are_what_was_given(tmp_path):
    held_out, shard = np.arange(270) % 256, np.arange(50)[::-1]
    prepare.write(tmp_path, [shard, shard[:20]], held_out, SHAPE)
    rows = [np.load(tmp_path / f"splits/{split}/rows.npy") for split in prepare.SPLITS]
    assert (np.concatenate([part.ravel() for part in rows]) == held_out).all()
    assert all(part.shape == (10, 9) and part.dtype == np.uint16 for part in rows)
    assert (np.load(tmp_path / "data/train-0000.npy") == shard).all()
    prepare.write(tmp_path, [shard], held_out, SHAPE)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["train-0000.npy"]


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="200 held-out tokens are too few: 3 splits of 90"):
        prepare.write(tmp_path, [], np.zeros(200), SHAPE)
    with pytest.raises(UserError, match="token 300 is not below 256"):
        prepare.write(tmp_path, [np.array([1, 300])], np.zeros(270), SHAPE)


def test_the_projects_own_texts_are_no_part_of_what_a_sandbox_holds(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("# One\nfirst\n# Two\nsecond")
    (tmp_path / "sbp_jax").mkdir()
    source = '"""A module."""\nclass A:\n    "Of A."\n    def f(self):\n        "Of f."'
    (tmp_path / "sbp_jax" / "module.py").write_text(source)
    (tmp_path / "README.md").write_text("Read me.")
    found = [text.strip() for text in prepare.own_texts(tmp_path) if text]
    assert found == ["A module.", "Of A.", "Of f.", "# One\nfirst", "# Two\nsecond", "Read me."]
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(UserError, match="installed packages, which candidates can read"):
        list(prepare.own_texts(tmp_path))


def test_fineweb_shards_are_read_without_their_headers(tmp_path):
    tokens = np.arange(1000) % 500
    training, held_out = prepare.open_tokens(folder_of_bins(tmp_path, tokens))
    assert (held_out == tokens).all() and [(t == tokens).all() for t in training] == [True]


def test_other_files_are_no_fineweb_shards(tmp_path):
    training, _ = prepare.open_tokens(folder_of_bins(tmp_path, np.arange(9)))
    path = tmp_path / "fineweb_train_000001.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match="holds 8 tokens, its header says 9"):
        list(training)
    with pytest.raises(UserError, match="must begin with 20240520"):
        prepare.open_tokens(folder_of_bins(tmp_path, np.arange(9), magic=1))


def test_every_cheat_of_the_environment_still_applies(tmp_path):
    code = env.SHIPPED / "nanogpt" / "code"
    diffs = sorted((env.SHIPPED / "nanogpt" / "cheats").glob("*.diff"))
    assert len(diffs) == 3
    for diff in diffs:
        for path in code.glob("*.*"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        result = patch.apply(tmp_path, diff.read_text(), ("train.py",))
        assert not isinstance(result, patch.PatchFailed), result
