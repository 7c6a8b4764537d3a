"""The random-graph model of EntiGraph: simulation and theory in one plot.

    python -m entigraph.theory --output=runs/theory
    python -m entigraph.theory --output=runs/theory3000 --vertices=3000 --p=0.001 --seeds=3

writes DIR/results.json and DIR/theory.png. docs/entigraph_theory.md says what is computed.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from sbp_jax import files
from sbp_jax.errors import UserError

OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.")
VERTICES = flags.DEFINE_integer("vertices", 100, "Entities, V.")
P = flags.DEFINE_float("p", 0.03, "The chance that an ordered pair is related in the source.")
STEPS = flags.DEFINE_integer("steps", 0, "Synthetic texts; 0 for 8 V(V-1), which is far enough.")
SEEDS = flags.DEFINE_integer("seeds", 20, "Graphs, each with texts of its own.")
SEED = flags.DEFINE_integer("seed", 0, "What all draws derive from.")
EPSILON = flags.DEFINE_float("epsilon", 0.1, "Slack of the bounds that are drawn.")

MAX_VERTICES = 20_000  # 8 GB of arrays
MAX_STEPS = 2_000_000_000  # they are counted in 32 bits
POINTS = 240  # of a curve, at log-spaced numbers of texts
log = logging.getLogger(__name__)


def main() -> None:
    _check()
    output = Path(OUTPUT.value or "")
    with cli.ending_at_interrupt():  # JAX is imported here, and not for --help
        from entigraph.laws.predictions import Model
        from entigraph.laws.random_graph import Run, simulate
    model = Model(VERTICES.value, P.value)
    times = numbers_of_texts(STEPS.value or 8 * model.pairs)
    start, cpu = time.monotonic(), time.process_time()
    runs: list[Run] = []
    for index in range(SEEDS.value):
        runs.append(simulate(model.vertices, model.p, times, SEED.value, index))
        log.info("graph %d of %d: %.1f s", index + 1, SEEDS.value, time.monotonic() - start)
    results = summary(model, times, runs, EPSILON.value)
    results |= {"wall_s": time.monotonic() - start, "cpu_s": time.process_time() - cpu}
    draw(results, output / "theory.png")
    files.write_json(output / "results.json", results)
    print(told(results))


def _check() -> None:
    vertices, p = VERTICES.value, P.value
    if not 5 <= vertices <= MAX_VERTICES:
        raise UserError(f"--vertices={vertices}: must be from 5 to {MAX_VERTICES:,}")
    if not 1 / vertices < p < 1:
        raise UserError(
            f"--p={p}: must lie between 1/vertices = {1 / vertices:.4g} and 1: with one relation "
            "or less for each entity, nearly no two are connected"
        )
    steps = STEPS.value or 8 * vertices * (vertices - 1)
    if not 100 <= steps <= MAX_STEPS:
        raise UserError(f"--steps={steps}: must be from 100 to {MAX_STEPS:,}")
    for flag in (SEEDS, EPSILON):
        if flag.value <= 0:
            raise UserError(f"--{flag.name}={flag.value}: must be more than 0")
    if EPSILON.value >= 1:
        raise UserError(f"--epsilon={EPSILON.value}: must be less than 1")
    if SEED.value < 0:
        raise UserError(f"--seed={SEED.value}: must not be negative")


def numbers_of_texts(steps: int) -> np.ndarray:
    return np.unique(np.geomspace(1, steps, POINTS).round().astype(np.int64))


def summary(model: Any, times: np.ndarray, runs: list[Any], epsilon: float) -> dict[str, Any]:
    """results.json."""
    from entigraph.laws.predictions import phases

    every = np.stack([run.known for run in runs])
    known = every.mean(axis=0)
    curves = {
        "simulated": known,
        "simulated_low": every.min(axis=0),
        "simulated_high": every.max(axis=0),
        "expected": np.mean([run.expected(times) for run in runs], axis=0),
        "finite": model.finite_curve(times),
        "branching": model.branching_curve(times),
        "bound_low": model.low(times, epsilon),
        "bound_high": model.high(times, epsilon),
    }
    chances = np.zeros(model.vertices + 1)
    for run in runs:
        chances[: len(run.chances)] += run.chances
    mu = {
        "simulated": chances / chances.sum(),
        "finite": model.finite,
        "branching": model.branching,
    }
    predicted = ("expected", "finite", "branching")
    return {
        "vertices": model.vertices,
        "p": model.p,
        "steps": int(times[-1]),
        "seeds": len(runs),
        "seed": SEED.value,
        "lambda": model.lam,
        "rho": model.rho,
        "C": model.reachable,
        "C_LB": model.c_low,
        "C_UB": model.c_high(epsilon),
        "epsilon": epsilon,
        "epsilon_needed": {
            "mean": model.slack(times, known),
            "of_each_seed": [model.slack(times, run.known) for run in runs],
        },
        "source_density": [run.density for run in runs],
        "reachable": [run.reachable for run in runs],
        "longest_path": [run.depth for run in runs],
        "largest_error": {name: float(abs(curves[name] - known).max()) for name in predicted},
        "phases": phases(times, known).record(),
        "phases_predicted": phases(times, curves["finite"]).record(),
        "phases_one_exponential": phases(times, model.low(times, 0.0)).record(),
        "mu": {name: [float(x) for x in weights[1:21]] for name, weights in mu.items()},
        "texts": times.tolist(),
        "curves": {name: [float(y) for y in curve] for name, curve in curves.items()},
    }


def draw(results: dict[str, Any], path: Path) -> None:
    from entigraph.laws.drawing import picture

    t, y, cut = results["texts"], results["curves"], results["phases"]
    title = (
        f"{results['vertices']:,} entities, each related to {results['lambda']:g} others: "
        f"mean of {results['seeds']} simulations"
    )
    with picture(path, title, "synthetic texts", "share of relations known") as axes:
        axes.fill_between(t, y["bound_low"], y["bound_high"], color="#a3abb3", alpha=0.25, lw=0,
                          label=f"bounds, ε = {results['epsilon']:g}")  # fmt: skip
        axes.fill_between(t, y["simulated_low"], y["simulated_high"], color="#1f5fbf", alpha=0.25,
                          lw=0, label="simulations, all")  # fmt: skip
        axes.plot(t, y["simulated"], color="#1f5fbf", lw=2.5, label="simulations, mean")
        axes.plot(t, y["expected"], color="#000000", ls=(0, (1, 3)), label="exact, these graphs")
        axes.plot(t, y["finite"], color="#a85200", ls="--", label="mixture, finite tree")
        axes.plot(t, y["branching"], color="#1d7a4f", ls=(0, (6, 2, 1, 2)),
                  label="mixture, infinite tree")  # fmt: skip
        axes.set(xscale="log", ylim=(0, 1.02), xlim=(t[0], t[-1]))
        if cut["found"]:
            names = ("linear", "log-linear", "plateau")
            ends = (t[0], cut["first"], cut["second"], t[-1])
            for name, left, right in zip(names, ends[:-1], ends[1:], strict=True):
                axes.text((left * right) ** 0.5, 0.98, name, ha="center", va="top", size=9)
            for place in ends[1:3]:
                axes.axvline(place, color="#555555", lw=0.8)


def told(results: dict[str, Any]) -> str:
    cut, error, needed = results["phases"], results["largest_error"], results["epsilon_needed"]
    phases = (
        f"linear to {cut['first']:,} texts, log-linear to {cut['second']:,}, then a plateau"
        if cut["found"]
        else "the three were not found; more --steps may show them"
    )
    return "\n".join(
        (
            f"lambda {results['lambda']:.4g}, rho {results['rho']:.4f}, C {results['C']:.4f}; "
            f"{results['seeds']} graphs, {results['steps']:,} texts each",
            f"known at the end: {results['curves']['simulated'][-1]:.4f}",
            f"bounds: hold with epsilon {needed['mean']:.3f} for the mean, "
            f"{max(needed['of_each_seed']):.3f} for every graph",
            f"largest error: expectation on these graphs {error['expected']:.4f}, mixture of the "
            f"finite tree {error['finite']:.4f}, of the infinite one {error['branching']:.4f}",
            f"phases: {phases}",
        )
    )


if __name__ == "__main__":
    cli.run(main, needs=("output",))
