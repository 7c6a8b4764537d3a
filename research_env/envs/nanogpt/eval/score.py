"""The loss of a candidate's predictions, and whether they can be believed.

Nothing is taken from the candidate but factors of logits. What the softmax of their product gives
to the true tokens is computed here, so that no claim about a loss and no unnormalised score can
enter. Predictions for the rows are also compared with those for their twins (see prepare.py), up to
where the two differ. If they move, the model has seen the future, or the other rows of its batch.
"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

LABELS = Path(os.environ.get("LABELS", "/labels"))
KEY = Path(os.environ.get("KEY", "/key"))
PREDICTIONS = Path(os.environ.get("PREDICTIONS", "/predictions"))
VOCABULARY = int(os.environ.get("VOCABULARY", "256"))  # a model's may be larger
# In nats, of one log-probability, and on average in favour of the true token: what rounding may do.
MOST_DIFFERENCE = float(os.environ.get("MOST_DIFFERENCE", "0.05"))
MOST_LEAK = float(os.environ.get("MOST_LEAK", "0.002"))
# If given, the score is the time by the harness's clock of a run that came down to this loss.
TARGET = float(os.environ.get("TARGET_LOSS", "0"))
POSITIONS = 256  # at once and thread


class Factors(NamedTuple):
    hidden: np.ndarray  # [N, T, D]
    unembedding: np.ndarray  # [V, D]

    def log_probabilities(self, row: int, positions: np.ndarray | slice) -> np.ndarray:
        """[positions, V]. Logits are made relative to the largest before anything is added to
        them: among huge equal ones, rounding would otherwise swallow the normalisation.
        """
        hidden = self.hidden[row, positions].astype(np.float64)
        with np.errstate(all="ignore"):
            logits = hidden @ self.unembedding.T
            logits -= logits.max(-1, keepdims=True)
            result = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        if not np.isfinite(result).all():
            sys.exit("a prediction is not finite")
        return result


def read(folder: Path, rows: int, context: int) -> Factors:
    """[N, T, D] and [V, D] of floats, or one line that says what is wrong."""
    found = []
    for name in ("hidden.npy", "unembedding.npy"):
        path = folder / name
        if not path.is_file() or path.is_symlink():
            sys.exit(f"predictions/{name} is missing")
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            sys.exit(f"predictions/{name} cannot be read: {error}")
        if not isinstance(array, np.ndarray) or array.dtype not in (np.float16, np.float32):
            sys.exit(f"predictions/{name} must be an array of float16 or float32")
        found.append(array)
    hidden, unembedding = found
    if hidden.ndim != 3 or hidden.shape[:2] != (rows, context):
        sys.exit(f"hidden.npy must be [{rows}, {context}, D], not {list(hidden.shape)}")
    width = hidden.shape[2]
    if unembedding.ndim != 2 or unembedding.shape[1] != width or len(unembedding) < VOCABULARY:
        sys.exit(f"unembedding.npy must be [V, {width}], V {VOCABULARY} or more")
    return Factors(hidden, np.asarray(unembedding, np.float64))


def mean_loss(model: Factors, targets: np.ndarray) -> float:
    """Over all positions; targets [N, T]."""
    count, context = targets.shape

    def loss(piece: tuple[int, int]) -> float:
        row, start = piece
        here = slice(start, start + POSITIONS)
        true = targets[row, here]
        return -float(model.log_probabilities(row, here)[np.arange(len(true)), true].sum())

    pieces = [(row, start) for row in range(count) for start in range(0, context, POSITIONS)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(loss, pieces)) / targets.size


class Probe(NamedTuple):
    most: float  # difference of a log-probability between a row and its twin
    leak: float  # by how much the true token gains on average by being visible
    unseen_loss: float  # of true tokens that are nowhere in the inputs


def probe(
    model: Factors, twins: Factors, rows: np.ndarray, of: np.ndarray, looks: np.ndarray
) -> Probe:
    """`of` is the row of each twin, `looks` the positions to compare, the last common one first."""
    most, leaks, losses = 0.0, [], []
    for twin, (row, positions) in enumerate(zip(of, looks, strict=True)):
        seen = model.log_probabilities(row, positions)
        unseen = twins.log_probabilities(twin, positions)
        most = max(most, float(np.abs(seen - unseen).max()))
        true = rows[row, positions[0] + 1]
        leaks.append(seen[0, true] - unseen[0, true])
        losses.append(-unseen[0, true])
    return Probe(most, float(np.mean(leaks)), float(np.mean(losses)))


def main() -> None:
    rows = np.load(LABELS / "rows.npy")
    key = np.load(KEY / "key.npz")
    context = rows.shape[1] - 1
    rows, of = rows[key["order"]], np.argsort(key["order"])[key["of"]]
    model = read(PREDICTIONS / "1", len(rows), context)
    found = probe(model, read(PREDICTIONS / "2", len(of), context), rows, of, key["looks"])
    if found.most > MOST_DIFFERENCE or found.leak > MOST_LEAK:
        sys.exit(
            f"predictions depend on later tokens or on other rows: by {found.most:.3g} nats at most"
            f", {found.leak:.3g} in favour of the true token"
        )
    loss = mean_loss(model, rows[:, 1:])
    score = loss
    if TARGET:
        if loss > TARGET:
            sys.exit(f"the loss is {loss:.4f}, the target is {TARGET:g}")
        score = float(os.environ["RUN_SECONDS"])
    metrics = {"loss": loss, "unseen_loss": found.unseen_loss, "probe_difference": found.most}
    print(json.dumps({"score": score, **metrics}))


if __name__ == "__main__":
    main()
