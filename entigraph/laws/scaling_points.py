"""Results of several models as points of a scaling curve: accuracy against synthetic tokens."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from entigraph.evaluation.forgetting import KNOWLEDGE
from entigraph.scaling import Points, fit, plot
from sbp_jax import files
from sbp_jax.errors import UserError
from sbp_jax.evaluation.scores import Results


def report(spec: str, folder: Path, seed: int) -> None:
    """Writes scaling.json and scaling.png, and says the laws."""
    points, task = read_points(spec)
    laws = fit(points, seed=seed)
    low, high = points.intervals or ((), ())
    record = {
        "task": task,
        "tokens_millions": list(points.tokens),
        "accuracy_percent": list(points.accuracy),
        "accuracy_intervals": [[*map(float, pair)] for pair in zip(low, high, strict=True)],
        "laws": {name: law.record() for name, law in laws.items()},
    }
    files.write_json(folder / "scaling.json", record)
    plot(points, laws, folder / "scaling.png")
    for law in laws.values():
        numbers = ", ".join(
            f"{name} {e.value:.4g} [{e.low:.4g}, {e.high:.4g}]" for name, e in law.estimates.items()
        )
        print(f"{law.name}: {numbers}; rms {law.rmse:.2f} points")


def read_points(spec: str) -> tuple[Points, str]:
    """Of TOKENS:FOLDER,...; all of the same questions, in the first of KNOWLEDGE that all have."""
    named = []
    for part in filter(None, (part.strip() for part in spec.split(","))):
        tokens, colon, path = part.partition(":")
        try:
            named.append((float(tokens) / 1e6, Results.read(path)))
        except ValueError as error:
            raise UserError(
                f"--scaling: {part!r} is no TOKENS:FOLDER, such as 1e6:scores/million"
            ) from error
    shared = [t for t in KNOWLEDGE if named and all(t in r.recorded["tasks"] for _, r in named)]
    if not shared:
        raise UserError(f"--scaling: no mode of {', '.join(KNOWLEDGE)} that all results have")
    rows = [_outcomes(results, shared[0]) for _, results in named]
    asked = [row["question"] for row in rows[0]]
    for (_, results), some in zip(named, rows, strict=True):
        if [row["question"] for row in some] != asked:
            raise UserError(f"--scaling: {results.folder} has answers to other questions")
    answers = np.array([[row["right"] for row in some] for some in rows])
    accuracy = [float(x) for x in 100 * answers.mean(axis=1)]
    articles = [row["article"] for row in rows[0]]
    return Points([tokens for tokens, _ in named], accuracy, answers, articles), shared[0]


def _outcomes(results: Results, task: str) -> list[dict[str, Any]]:
    record = results.recorded["tasks"][task]["outcomes"]
    path = results.folder / record["path"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}; evaluate again") from error
    if files.sha256(data) != record["sha256"]:
        raise UserError(f"{path}: not what results.json was made of; evaluate again")
    return [json.loads(line) for line in data.splitlines()]
