"""Where the seconds and bytes of a train step go on this machine's CPU, beside what they should be.

    python bench/anatomy.py [--sizes=5M] [--repeats=10]

The step of bench/train_cpu.py, with AdamW and with Muon; medians, the programs taking turns.

The optimizer alone is clip, update and apply on the whole state. Either has to move 32 bytes a
parameter: the gradient for its norm and again for its use, the parameter and two moments there and
back (Muon: one moment, and the orthogonal update). That is priced by an addition in place that
moves as many bytes; Muon's Newton-Schulz products at the FLOP/s that the rest of the step makes of
the model's. The bytes that the compiler counts are printed beside the 32.

Memory is measured on Linux only: its record of the largest resident set can be begun anew after
compilation, which takes more than the step of a small model.
"""

import argparse
import ctypes
import gc
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from train_cpu import BATCH, LENGTH, SIZES, jax_inputs, jax_programs

from sbp_jax import cli

OPTIMIZERS = ("adamw", "muon")
BYTES = 32  # that an optimizer has to move for each parameter
ITERATIONS = 5  # of Newton-Schulz, in optax.contrib.scale_by_muon
SAVES = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="5M", help=f"of {','.join(SIZES)}")
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    for size in arguments.sizes.split(","):
        print_times(size, in_new_process(times, size, arguments.repeats))
        if sys.platform == "linux":
            print_memory({name: in_new_process(memory, size, name) for name in OPTIMIZERS})


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class Run:
    """A state that the step, and the optimizer alone, change by turns."""

    def __init__(self, size: str, optimizer: str):
        import jax

        self.experiment, self.mesh, self.first_state, self.compiled = jax_programs(size, optimizer)
        self.block = jax.block_until_ready

    def start(self) -> None:
        self.state, self.inputs = self.first_state(), jax_inputs(self.experiment, self.mesh)

    def step(self) -> None:
        self.state, _ = self.block(self.compiled(self.state, *self.inputs))

    def compile_optimizer(self) -> None:
        import jax
        import jax.numpy as jnp

        # Copies of the parameters: of the shapes of a gradient, and with values as ordinary.
        self.gradient = jax.tree.map(jnp.copy, self.state.params)
        program = jax.jit(self.update, donate_argnums=0)
        self.apply = program.lower(self.state, self.gradient).compile()

    def update(self, state, gradient):
        """What `train_step` does once it has the gradient."""
        import jax.numpy as jnp
        import optax

        from sbp_jax.training.step import apply_gradient

        finite = jnp.isfinite(optax.tree.norm(gradient))
        params, moments = apply_gradient(
            self.experiment, state, gradient, jnp.float32(1e-3), finite
        )
        return state._replace(params=params, optimizer=moments)

    def optimizer(self) -> None:
        self.state = self.block(self.apply(self.state, self.gradient))


def times(size: str, repeats: int) -> dict[str, float]:
    """Median seconds of everything that is timed, and the counts to hold them against."""
    import jax
    import jax.numpy as jnp

    from sbp_jax.model.transformer import num_params
    from sbp_jax.training.flops import flops_per_token

    runs = {name: Run(size, name) for name in OPTIMIZERS}
    calls: dict[str, Callable[[], None]] = {}
    for name, run in runs.items():
        run.start()
        run.compile_optimizer()
        calls |= {f"{name} step": run.step, f"{name} alone": run.optimizer}
    model = runs["adamw"].experiment.model
    parameters = num_params(model)
    addition = jax.jit(lambda x: x + 1, donate_argnums=0)
    numbers = jnp.zeros(parameters * BYTES // 8)  # 4 bytes each, read and written

    def add() -> None:
        nonlocal numbers
        numbers = jax.block_until_ready(addition(numbers))

    seconds = medians({**calls, "addition": add}, repeats)
    moved = {f"{n} bytes": run.apply.cost_analysis()["bytes accessed"] for n, run in runs.items()}
    counts = {
        "parameters": parameters,
        "model flops": flops_per_token(model, LENGTH) * BATCH * LENGTH,
        "muon flops": newton_schulz_flops(model),
    }
    return seconds | moved | counts | saves(runs["adamw"])


def medians(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(2 + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def newton_schulz_flops(model) -> float:
    """For an m x n matrix X, m <= n, each iteration computes A = XX', AA, and a product with X."""
    import jax

    from sbp_jax.model import transformer

    def flops(shape, axes: tuple[str, ...], role: str) -> float:
        if role != "matrix":
            return 0.0
        sizes = dict(zip(axes, shape.shape, strict=True))
        layers, width = sizes.pop("layers"), sizes.pop("width")
        m, n = sorted((width, math.prod(sizes.values())))
        return layers * ITERATIONS * (4.0 * m * m * n + 2.0 * m**3)

    metadata = (transformer.param_metadata(model, name) for name in ("axes", "role"))
    return sum(jax.tree.leaves(jax.tree.map(flops, transformer.param_shapes(model), *metadata)))


def saves(run: Run) -> dict[str, float]:
    """Median seconds until the loop goes on, until the checkpoint is committed while it does, and
    that the loop has lost by then.
    """
    from sbp_jax.training.checkpoint import Checkpoints

    turns: dict[str, list[float]] = {"blocked": [], "committed": [], "lost": []}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        checkpoints = Checkpoints(folder, run.experiment.checkpoint)

        def committed() -> float:
            checkpoints.wait()
            return time.perf_counter()

        for turn in range(1 + SAVES):
            before = time.perf_counter()
            run.step()
            start = time.perf_counter()
            checkpoints.save(run.state, {})
            free = time.perf_counter()
            done, steps = pool.submit(committed), 0
            while not done.done():
                run.step()
                steps += 1
            if turn:  # the first one compiles the checksums
                turns["blocked"].append(free - start)
                turns["committed"].append(done.result() - start)
                turns["lost"].append(time.perf_counter() - start - steps * (start - before))
        checkpoints.close()
    return {name: statistics.median(values) for name, values in turns.items()}


def memory(size: str, optimizer: str) -> dict[str, int]:
    """Bytes by what they are for, as compiled; and the most that were resident at one time."""
    import jax

    run = Run(size, optimizer)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or the step would live in what compilation has left behind
    Path("/proc/self/clear_refs").write_text("5")
    before = largest_resident_set()
    run.start()
    for _ in range(3):
        run.step()
    peak = largest_resident_set() - before
    m = run.compiled.memory_analysis()
    params, moments = (
        sum(x.nbytes for x in jax.tree.leaves(part))
        for part in (run.state.params, run.state.optimizer)
    )
    parts = {
        "arguments": m.argument_size_in_bytes,
        "outputs": m.output_size_in_bytes,
        "aliased": -m.alias_size_in_bytes,
        "temporary": m.temp_size_in_bytes,
    }
    return {"params": params, "moments": moments, **parts, "sum": sum(parts.values()), "RSS": peak}


def largest_resident_set() -> int:
    """Bytes, since the record was last begun anew."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def print_times(size: str, figures: dict[str, float]) -> None:
    f, parameters = figures, figures["parameters"]
    bandwidth = parameters * BYTES / f["addition"]
    print(f"{size}: {parameters:,} parameters; an addition moves {bandwidth / 1e9:.1f} GB/s")
    print(" " * 8 + "step ms  optimizer ms  expected   share  expected  bytes/parameter  expected")
    for name in OPTIMIZERS:
        step, alone = f[f"{name} step"], f[f"{name} alone"]
        rest = step - alone
        products = f["muon flops"] / (f["model flops"] / rest) if name == "muon" else 0.0
        expected = f["addition"] + products
        print(
            f"{name:6} {1e3 * step:>8.1f} {1e3 * alone:>13.1f} {1e3 * expected:>9.1f} "
            f"{alone / step:>7.1%} {expected / (rest + expected):>9.1%} "
            f"{f[f'{name} bytes'] / parameters:>16.0f} {BYTES:>9}"
        )
    print(f"Newton-Schulz takes {f['muon flops'] / f['model flops']:.1%} of the model's FLOPs")
    blocked, committed, lost = (
        f"{1e3 * f[name]:.0f} ms ({f[name] / f['adamw step']:.2f} steps)"
        for name in ("blocked", "committed", "lost")
    )
    print(f"a checkpoint blocks {blocked}, is committed after {committed}, costs {lost}")


def print_memory(bytes_of: dict[str, dict[str, int]]) -> None:
    print("MiB    " + " ".join(f"{part:>9}" for part in bytes_of["adamw"]) + "  RSS / sum")
    for name, parts in bytes_of.items():
        columns = " ".join(f"{value / 2**20:>9.1f}" for value in parts.values())
        print(f"{name:6} {columns} {parts['RSS'] / parts['sum']:>10.2f}", flush=True)


if __name__ == "__main__":
    cli.use_huge_pages()
    main()
