"""Seconds from the command to the end of the first train step: cold, and with compiled programs.

    python bench/startup.py [--repeats=3]

Trains configs/laptop.py for two steps from a store made beforehand, so that tokenizing is not
counted; medians over the repeats. Warm is with the programs that a start before left in `compiled/`
of its workdir, which is where a restart finds them. Read from the trainer's log, and from the clock
that it keeps: "imports" is Python, the packages and the devices.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "configs" / "laptop.py"
PARTS = ("imports", "data, state", "compile", "first step", "total")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    seconds: dict[str, list[list[float]]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/store"
        finish(command("sbp_jax.tokenize", "--input=toyworld", f"--output={store}"))
        for turn in range(repeats):
            cold, warm = (Path(folder) / f"{turn}-{name}" for name in seconds)
            seconds["cold"].append(start(store, cold))
            shutil.copytree(cold / "compiled", warm / "compiled")
            seconds["warm"].append(start(store, warm))
    print("seconds " + " ".join(f"{part:>12}" for part in PARTS))
    totals = []
    for name, turns in seconds.items():
        medians = [statistics.median(part) for part in zip(*turns, strict=True)]
        print(f"{name:7} " + " ".join(f"{median:>12.1f}" for median in medians))
        totals.append(medians[-1])
    print(f"cold / warm: {totals[0] / totals[1]:.2f} (medians of {repeats})")


def start(store: str, workdir: Path) -> list[float]:
    """The parts of one start of the trainer, in the order of PARTS."""
    began = time.perf_counter()
    flags = (
        f"--config.data.input={store}",
        f"--config.train.tokens={2 * 8 * 256}",  # two of the config's steps
        "--config.train.log_every=1",
        "--config.train.samples=0",
        "--config.eval.max_sequences=32",
        f"--workdir={workdir}",
    )
    at = {}
    for line, seconds in finish(command("sbp_jax.train", *flags)):
        at.setdefault(" ".join(line.split()[:2]), seconds - began)
    compiling, done = at["compiling the"], at["step 1/2"]
    described = next(seconds for line, seconds in at.items() if line.startswith("model "))
    imports = described - json.loads((workdir / "summary.json").read_text())["seconds"]["start"]
    return [imports, compiling - imports, described - compiling, done - described, done]


def finish(process: subprocess.Popen[str]) -> list[tuple[str, float]]:
    """The lines that it logs, and when; its last one is the bench's if it fails."""
    assert process.stderr
    lines = [(line, time.perf_counter()) for line in process.stderr]
    if process.wait():
        sys.exit(lines[-1][0] if lines else f"ended with {process.returncode}")
    return lines


def command(module: str, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, f"--config={CONFIG}", *flags],
        env={k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


if __name__ == "__main__":
    main()
