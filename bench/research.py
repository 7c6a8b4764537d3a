"""Searches: what an idea costs beside its run, how busy slots are, and which strategy finds more.

    python bench/research.py [--ideas=256] [--workers=64] [--seeds=20] [--only=overhead,...]
    python bench/research.py --only=nanogpt --ideas=16 --seeds=2 --strategies=greedy,best_of_n

Overhead: ideas on `synthetic` that take no time, from the first one's start to the last one's end,
so that what is left is the bank, the fork, the files and the patch. Slots: `workers` runs at a time
that sleep for random, exponentially distributed times; the share of the slots' time that they were
in a run, until the queue was empty. Strategies: on `synthetic`, the true value of the idea that
seems best at the end, by seeds; the optimum is 1, the start 0.51. With --only=nanogpt, real
searches of as many ideas each, one after another: how much better than the baseline the one that
looked best is on the selection split, with fresh seeds; 0 if none looked better.
"""

import argparse
import contextlib
import io
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from research_env.bank import SEARCH, SELECTION, Bank, Run
from research_env.env import load
from research_env.researcher.strategies import NAMES
from research_env.running import confirm
from research_env.running.settings import Settings
from research_env.running.simulate import simulate
from research_env.search import start

BASE = "best_of_n"  # what every strategy is compared with
FEW = 16  # ideas of the shorter search
SLOTS = 8  # of the simulated searches


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ideas", type=int, default=256)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--strategies", default=",".join(NAMES))
    parser.add_argument("--only", default="overhead,slots,strategies")
    given = parser.parse_args()
    parts: dict[str, Callable[[], None]] = {
        "overhead": lambda: overhead(given.ideas),
        "slots": lambda: utilisation(given.ideas, given.workers),
        "strategies": lambda: strategies(given.ideas, given.seeds),
        "nanogpt": lambda: nanogpt(given.ideas, given.seeds, given.strategies.split(",")),
    }
    for name in given.only.split(","):
        parts[name]()


def overhead(ideas: int) -> None:
    """CPU time by the difference of two searches, so that neither start nor report is counted."""
    spent = []
    for count in (FEW, FEW + ideas):
        before = cpu_seconds()
        runs = searched(ideas=count, slots=2, strategy=BASE)
        spent.append(cpu_seconds() - before)
    span = max(r.finished or 0 for r in runs) - min(r.started or 0 for r in runs)
    inside = statistics.median(run.seconds for run in runs)
    cpu = 1000 * (spent[1] - spent[0]) / ideas
    load, cores = os.getloadavg()[0], os.cpu_count()
    print(
        f"overhead: {1000 * span / len(runs):.1f} ms of wall clock an idea, two at a time, of "
        f"which a worker patches and scores for {1000 * inside:.1f} ms; {cpu:.1f} ms of CPU in all "
        f"its processes ({len(runs)} ideas; load {load:.1f} on {cores} cores)"
    )


def cpu_seconds() -> float:
    """Of this process and of all that it or they have waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def utilisation(ideas: int, workers: int) -> None:
    began = time.perf_counter()
    runs = searched(ideas=ideas, slots=workers, size="workers", strategy=BASE)
    first = min(run.started or 0 for run in runs)
    last = max(run.started or 0 for run in runs)  # then the queue is empty, and slots fall idle
    busy = sum(max(0.0, min(run.finished or 0, last) - (run.started or 0)) for run in runs)
    inside = sum(run.seconds for run in runs) / sum(
        (run.finished or 0) - (run.started or 0) for run in runs
    )
    share = busy / (workers * (last - first)) * inside
    print(
        f"slots: {100 * share:.1f}% of the time of {workers} in a run ({len(runs)} runs of "
        f"{statistics.fmean(run.seconds for run in runs):.1f} s on average; "
        f"{time.perf_counter() - began:.0f} s)"
    )


def strategies(ideas: int, seeds: int) -> None:
    environment = load("synthetic")
    ends: dict[str, list[float]] = {}
    halves: dict[str, list[float]] = {}
    for name in NAMES:
        found = [simulate(environment, name, ideas, seed, SLOTS).best for seed in range(seeds)]
        ends[name] = [best[-1] for best in found]
        halves[name] = [best[len(best) // 4] for best in found]
    print(f"strategies on synthetic, {seeds} seeds, {SLOTS} slots: mean and 95% interval")
    table(f"{ideas // 4} ideas", halves)
    table(f"{ideas} ideas", ends)


def nanogpt(ideas: int, seeds: int, names: Sequence[str]) -> None:
    environment = load("nanogpt")
    gains: dict[str, list[float]] = {name: [] for name in names}
    began = time.perf_counter()
    for seed in range(seeds):
        for name in names:
            with search(env="nanogpt", seed=seed, ideas=ideas, strategy=name) as bank:
                both = (*bank.get("finalists")[:1], 0)
                found = [confirm.scores(bank, idea, SELECTION) for idea in both]
                gain = 0.0
                if len(found) == 2 and all(found):
                    idea, baseline = map(statistics.fmean, found)
                    gain = environment.metric.sign * (idea - baseline)
            gains[name].append(gain)
            minutes = (time.perf_counter() - began) / 60
            print(f"{minutes:.0f} min: seed {seed} {name}: {gain:.4f} better", file=sys.stderr)
    print(f"strategies on nanogpt laptop, {ideas} ideas, {seeds} seeds: loss less the baseline's")
    table("", gains)


def table(title: str, found: dict[str, list[float]]) -> None:
    for name, values in sorted(found.items(), key=lambda item: -statistics.fmean(item[1])):
        line = f"  {title:10} {name:11} {told(values)}"
        if name != BASE and BASE in found:
            pairs = [a - b for a, b in zip(values, found[BASE], strict=True)]
            line += f"   over {BASE} {told(pairs)}"
        print(line)


def told(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.4f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.4f} ({mean - half:.4f} to {mean + half:.4f})"


def searched(**changes: Any) -> list[Run]:
    """The runs of the ideas of a real search."""
    with search(**changes) as bank:
        ideas = [idea.id for idea in bank.ideas() if idea.id]
        return [run for number in ideas for run in bank.runs(number, SEARCH)]


@contextlib.contextmanager
def search(**changes: Any) -> Iterator[Bank]:
    """The bank that a real search has left."""
    given: dict[str, Any] = {"env": "synthetic", "top": 1, **changes}
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            start(Settings(workdir=folder, **given))
        with Bank(Path(folder) / "ideas.db") as bank:
            yield bank


if __name__ == "__main__":
    main()
