"""The locked evaluator: right numbers for honest models, none for the others."""

import json

import numpy as np
import pytest
from scipy.special import log_softmax

VOCABULARY = 11
TABLE = np.random.default_rng(1).normal(size=(VOCABULARY, VOCABULARY)).astype(np.float32)
EYE = np.eye(VOCABULARY, dtype=np.float32)


@pytest.fixture
def rows():
    return np.random.default_rng(0).integers(0, VOCABULARY, (64, 17)).astype(np.uint16)


def bigrams(tokens):
    """An honest model: the logits of the next token are a row of a table."""
    return TABLE[tokens], EYE


def next_tokens(tokens):
    """[N, T, V], one-hot; nothing after the last."""
    following = EYE[np.concatenate([tokens[:, 1:], tokens[:, :1]], 1)]
    following[:, -1] = 0
    return following


def answer(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_loss_is_that_of_an_independent_log_softmax(evaluated, rows, capsys):
    evaluated(bigrams, rows)
    log_probabilities = log_softmax(TABLE.astype(np.float64), axis=-1)
    expected = -log_probabilities[rows[:, :-1], rows[:, 1:]].mean()
    found = answer(capsys)
    assert found["score"] == pytest.approx(expected, abs=1e-12)
    assert found["probe_difference"] == 0
    assert found["unseen_loss"] == pytest.approx(expected, abs=0.3)  # of 256 tokens


def test_factors_of_any_width_and_a_larger_vocabulary_are_multiplied(evaluated, rows, capsys):
    draw = np.random.default_rng(2)
    embedding, unembedding = (draw.normal(size=(size, 5)).astype(np.float16) for size in (11, 16))
    evaluated(lambda tokens: (embedding[tokens], unembedding), rows)
    logits = embedding.astype(np.float64) @ unembedding.T.astype(np.float64)
    expected = -log_softmax(logits, axis=-1)[rows[:, :-1], rows[:, 1:]].mean()
    assert answer(capsys)["score"] == pytest.approx(expected, abs=1e-12)


def test_unnormalised_scores_gain_nothing(evaluated, rows, capsys):
    evaluated(lambda tokens: (np.full((*tokens.shape, 11), 3e38, np.float32), EYE), rows)
    assert answer(capsys)["score"] == pytest.approx(np.log(VOCABULARY))


def test_rounding_in_half_precision_is_no_leak(evaluated, rows, capsys):
    noise = np.random.default_rng(3)

    def model(tokens):
        hidden = TABLE[tokens]
        return (hidden * (1 + 3e-4 * noise.normal(size=hidden.shape))).astype(np.float16), EYE

    evaluated(model, rows)
    assert 0 < answer(capsys)["probe_difference"] < 0.05


def leak_of_the_next_token(tokens):
    return TABLE[tokens] + next_tokens(tokens), EYE


def leak_at_few_places(tokens):
    """Where the sum of the last two tokens is 4: at one place in twenty or so."""
    before = np.concatenate([tokens[:, :1], tokens[:, :-1]], 1).astype(int)
    here = (before + tokens) == 4
    return TABLE[tokens] + 9 * next_tokens(tokens) * here[..., None], EYE


def leak_from_far_ahead(tokens):
    ahead = np.roll(EYE[tokens], -5, axis=1)
    ahead[:, -5:] = 0
    return TABLE[tokens] + ahead, EYE


def leak_of_the_mean_of_the_row(tokens):
    return TABLE[tokens] + EYE[tokens].mean(1, keepdims=True), EYE


def normalised_over_a_batch(tokens):
    batches = TABLE[tokens].reshape(-1, 8, *tokens.shape[1:], VOCABULARY)
    return (batches / batches.std((1, 2), keepdims=True)).reshape(*tokens.shape, -1), EYE


def trained_on_the_inputs(tokens):
    """Counts which token follows which, in all rows that it was given."""
    counts = np.ones((VOCABULARY, VOCABULARY))
    np.add.at(counts, (tokens[:, :-1], tokens[:, 1:]), 1)
    return np.log(counts).astype(np.float32)[tokens], EYE


def honest_where_two_rows_begin_alike(tokens):
    """Looks for the probe, to be honest only where rows can be compared."""
    leaking, honest = leak_of_the_next_token(tokens)[0], bigrams(tokens)[0]
    alike = np.cumprod(tokens[:, None] == tokens, axis=2).sum(2)
    for i, j in np.argwhere((alike > 2) & (alike < tokens.shape[1])):
        leaking[i, alike[i, j] - 1] = honest[i, alike[i, j] - 1]
    return leaking, EYE


@pytest.mark.parametrize(
    "model",
    [
        leak_of_the_next_token,
        leak_at_few_places,
        leak_from_far_ahead,
        leak_of_the_mean_of_the_row,
        normalised_over_a_batch,
        trained_on_the_inputs,
        honest_where_two_rows_begin_alike,
    ],
)
def test_what_sees_the_future_or_other_rows_is_invalid(evaluated, rows, model):
    with pytest.raises(SystemExit, match="depend on later tokens or on other rows"):
        evaluated(model, rows)


def test_twins_begin_like_their_rows_and_give_no_target_away(program, rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    places = {"LABELS": tmp_path, "WORK": tmp_path, "SECRET": 5, "TWINS": 200}
    program("eval/prepare.py", **places).main()
    one, two = (np.load(tmp_path / f"inputs/{part}/rows.npy") for part in "12")
    key = np.load(tmp_path / "key/key.npz")
    assert (one == rows[key["order"], :-1]).all()
    assert sorted(set(key["of"])) == list(range(64))  # every row is probed
    for twin, row, looks in zip(two, key["of"], key["looks"], strict=True):
        last = looks[0]
        assert (twin[: last + 1] == rows[row, : last + 1]).all()
        assert twin[last + 1] != rows[row, last + 1]
        assert (looks <= last).all()


@pytest.mark.parametrize(
    ("hidden", "unembedding", "words"),
    [
        (np.zeros((64, 16, 11), np.float64), EYE, "float16 or float32"),
        (np.zeros((64, 15, 11), np.float32), EYE, r"must be \[64, 16, D\]"),
        (np.zeros((64, 16, 11, 1), np.float32), EYE, r"must be \[64, 16, D\]"),
        (np.zeros((64, 16, 11), np.float32), EYE[:10], "V 11 or more"),
        (np.zeros((64, 16, 11), np.float32), EYE[:, :4], r"must be \[V, 11\]"),
        (np.full((64, 16, 11), np.nan, np.float32), EYE, "not finite"),
        (np.full((64, 16, 11), np.inf, np.float32), EYE, "not finite"),
        (np.array([object()]), EYE, "cannot be read: .*objects"),
    ],
)
def test_malformed_predictions_are_invalid(evaluated, rows, hidden, unembedding, words):
    def model(tokens):
        shaped = np.concatenate([hidden] * 4) if len(tokens) == 256 else hidden
        return shaped, unembedding

    with pytest.raises(SystemExit, match=words):
        evaluated(model, rows)


def test_a_file_that_is_a_link_or_no_array_is_invalid(program, tmp_path):
    score = program("eval/score.py", VOCABULARY=11)
    np.save(tmp_path / "unembedding.npy", EYE)
    with pytest.raises(SystemExit, match="hidden.npy is missing"):
        score.read(tmp_path, 64, 16)
    (tmp_path / "hidden.npy").symlink_to(tmp_path / "unembedding.npy")
    with pytest.raises(SystemExit, match="hidden.npy is missing"):
        score.read(tmp_path, 64, 16)
    (tmp_path / "hidden.npy").unlink()
    for content in (b"", b"hidden", (tmp_path / "unembedding.npy").read_bytes()[:40]):
        (tmp_path / "hidden.npy").write_bytes(content)
        with pytest.raises(SystemExit, match="hidden.npy cannot be read"):
            score.read(tmp_path, 64, 16)


def test_time_to_a_target_counts_only_if_the_target_is_reached(evaluated, rows, capsys):
    evaluated(bigrams, rows, TARGET_LOSS=9, RUN_SECONDS="123.5")
    assert answer(capsys)["score"] == 123.5


def test_a_loss_above_the_target_is_invalid(evaluated, rows):
    with pytest.raises(SystemExit, match="the target is 0.5"):
        evaluated(bigrams, rows, TARGET_LOSS=0.5, RUN_SECONDS="123.5")
