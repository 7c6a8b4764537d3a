"""Writes the trained model's predictions for the rows in /inputs, [N, T] tokens.

They are hidden.npy [N, T, D] and unembedding.npy [V, D]: the evaluator multiplies the two to logits
of the token after each position, and normalises and scores them itself. This file is not to be
changed; `features` and `restore` of train.py are.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import train
from jax.sharding import Mesh, NamedSharding, PartitionSpec

INPUTS = Path(os.environ.get("INPUTS", "/inputs"))
PREDICTIONS = Path(os.environ.get("PREDICTIONS", "predictions"))
BATCH_ROWS = 64  # the number of rows is a multiple of it


def main() -> None:
    rows = np.load(INPUTS / "rows.npy")
    devices = Mesh(np.array(jax.devices()), ("data",))
    parameters = jax.device_put(train.restore(), NamedSharding(devices, PartitionSpec()))
    by_row = NamedSharding(devices, PartitionSpec("data"))
    features = jax.jit(train.features)
    PREDICTIONS.mkdir(exist_ok=True)
    hidden, file = np.zeros(0), PREDICTIONS / "hidden.npy"
    for start in range(0, len(rows), BATCH_ROWS):
        batch = jax.device_put(rows[start : start + BATCH_ROWS].astype(np.int32), by_row)
        some, unembedding = features(parameters, batch)
        kind = "float32" if some.dtype == jnp.float32 else "float16"
        if start == 0:
            shape = (*rows.shape, some.shape[-1])
            hidden = np.lib.format.open_memmap(file, "w+", dtype=kind, shape=shape)
            np.save(PREDICTIONS / "unembedding.npy", np.asarray(unembedding.astype(kind)))
        hidden[start : start + BATCH_ROWS] = np.asarray(some.astype(kind))


if __name__ == "__main__":
    main()
