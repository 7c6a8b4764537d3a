"""How fast the input pipeline is on its own, and how often it could feed the laptop's train step.

    python bench/input.py

Each line is one shape: the laptop's, and 4,096 tokens a row, from memory (stores up to 256 MiB are
decoded once) and from the compressed tape, with a cache too small to help, as at scale.
"""

import argparse
import runpy
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from sbp_jax import cli
from sbp_jax.config import resolve
from sbp_jax.data import tokens
from sbp_jax.data.loader import Loader
from sbp_jax.data.tokens import Array, TokenStore, finish
from sbp_jax.parallel import batch_sharding, make_mesh
from sbp_jax.training.step import (
    batch_shapes,
    init_state,
    state_shardings,
    stop_flags,
    trace_train_step,
)

SECONDS = 5.0
SHAPES = [(256, 8, 2), (256, 8, 1), (4096, 8, 2), (4096, 8, 8)]  # T, batch, threads


def main() -> None:
    argparse.ArgumentParser(usage="python bench/input.py").parse_args()
    appetite = step_tokens_per_second(20)
    print(f"the train step of configs/laptop.py takes {appetite:,.0f} tokens/s")
    with tempfile.TemporaryDirectory() as folder:
        write_random_store(folder, 1 << 26)
        for in_memory in (True, False):
            if not in_memory:
                tokens.IN_MEMORY_BYTES, tokens.CACHE_BYTES = 0, 1 << 20
            for length, batch_size, threads in SHAPES:
                rate = tokens_per_second(TokenStore(folder), length, batch_size, threads)
                shape = f"{'memory' if in_memory else 'disk':6}  {batch_size:2} x {length:4}"
                ratio = f"  {rate / appetite:5.0f}x the step" if length == 256 else ""
                print(f"{shape}  threads {threads}  {rate:12,.0f} tokens/s{ratio}")


def step_tokens_per_second(steps: int) -> float:
    """The compiled step of the laptop config on one fixed batch: the median of its steps."""
    laptop = runpy.run_path(str(Path(__file__).parents[1] / "configs" / "laptop.py"))
    experiment = resolve(laptop["get_config"]())
    mesh = make_mesh(experiment.mesh, jax.devices()[:1])
    step = trace_train_step(experiment, mesh).lower().compile()
    state = jax.jit(partial(init_state, experiment))()
    batch = jax.tree.map(lambda x: jax.numpy.ones(x.shape, x.dtype), batch_shapes(experiment))
    state, batch = jax.device_put(
        (state, batch), (state_shardings(experiment, mesh), batch_sharding(mesh))
    )
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        state, metrics = step(state, batch, stop_flags(mesh, False))
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - start)
    return experiment.tokens_per_step / statistics.median(seconds)


def tokens_per_second(store: TokenStore, length: int, batch_size: int, threads: int) -> float:
    loader = Loader(
        {"tape": (store, 1.0, 0.0)},
        seed=0,
        sequence_length=length,
        batch_size=batch_size,
        num_steps=1 << 20,
        document_mask=True,
    )
    with loader.batches(SingleDeviceSharding(jax.devices()[0]), threads=threads) as batches:
        for _ in range(4):  # the first read decodes the store
            next(batches)
        start, steps = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < SECONDS:
            jax.block_until_ready(next(batches))
            steps += 1
    return steps * batch_size * length / elapsed


def write_random_store(folder: str, number: int) -> None:
    """Ids with the statistics of text of 300 tokens a document, more or less."""
    rng = np.random.default_rng(0)
    ids = (1 + rng.zipf(1.3, number) % 1023).astype(np.uint16)
    ids[::300] = 0
    offsets = np.append(np.arange(0, number, 300), number)
    shard = 1 << 24
    shards = []
    for name, data in (("tokens", ids), ("offsets", offsets)):
        array = Array(folder, name, data.dtype.name, len(data), shard, create=True)
        shards += [
            array.write_shard(i, data[i * shard : (i + 1) * shard]) for i in range(array.num_shards)
        ]
    manifest = {
        "documents": len(offsets) - 1,
        "tokens": number,
        "dtype": "uint16",
        "eos_id": 0,
        "tokenizer": "none",
        "held_out_tokens": 0,
        "shard_tokens": shard,
    }
    finish(folder, manifest, shards)


if __name__ == "__main__":
    cli.use_huge_pages()
    main()
