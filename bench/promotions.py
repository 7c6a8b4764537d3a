"""How often a search promotes an idea, by how much better the idea is: 0 is a false alarm.

    python bench/promotions.py [--searches=1000] [--top=3]

Simulated: the best few of a search, of which one is better by so many standard deviations of a run,
run again on the selection split and the best on the final one, with as many runs of the baseline as
the test needs. The rules are research_env/significance.py's own.
"""

import argparse

import numpy as np

from research_env.significance import baseline_runs, champion, decide, select

EFFECTS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)


def promoted(draw: np.random.Generator, effect: float, seeds: int, top: int) -> bool:
    def run(better: float, runs: int) -> list[float]:
        return draw.normal(better, 1, runs).tolist()

    ideas = {idea: run(effect if idea == 1 else 0.0, seeds) for idea in range(1, top + 1)}
    selection = select(ideas, run(0, baseline_runs(seeds, top)), 1, seeds)
    best = champion(selection)
    final = [] if best is None else run(effect if best == 1 else 0.0, seeds)
    decision = decide(selection, final, run(0, baseline_runs(seeds, 1)), 1, seeds)
    return decision.promoted is not None and (effect == 0 or decision.promoted == 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=1000)
    parser.add_argument("--top", type=int, default=3)
    flags = parser.parse_args()
    for seeds in (3, 5, 8):
        draw = np.random.default_rng(seeds)
        shares = [
            np.mean([promoted(draw, effect, seeds, flags.top) for _ in range(flags.searches)])
            for effect in EFFECTS
        ]
        runs = baseline_runs(seeds, flags.top), baseline_runs(seeds, 1)
        words = ", ".join(
            f"{effect:g} sd {share:.1%}" for effect, share in zip(EFFECTS, shares, strict=True)
        )
        print(f"{seeds} seeds, {runs[0]} and {runs[1]} runs of the baseline: {words}")


if __name__ == "__main__":
    main()
