"""The trained model's answers to /inputs/problems.txt, the likeliest characters.

Not to be changed.
"""

import json
import os
from pathlib import Path

import jax
import model

INPUTS = Path(os.environ.get("INPUTS", "/inputs"))
PREDICTIONS = Path(os.environ.get("PREDICTIONS", "predictions"))


def main() -> None:
    prompts = model.encode((INPUTS / "problems.txt").read_text().split())
    given = jax.jit(model.answers)(model.restore(), prompts, jax.random.key(0), 0.0)
    PREDICTIONS.mkdir(exist_ok=True)
    (PREDICTIONS / "answers.json").write_text(json.dumps(model.decode(given)))


if __name__ == "__main__":
    main()
