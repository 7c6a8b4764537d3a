"""Where SBP wins: a table and a figure of any number of bootstraps, each one point of the map.

    python bench/regime.py runs/regime/*  --figure=docs/regime.png

docs/regime.md has the commands that made its points. Of each: corpus, model, passes over it, the
arms' held-out losses, the share of the oracle's gain that SBP recovers from repetition and from
tuned repetition, how true the synthetic documents are, what the models know of the world's facts,
and the FLOPs of SBP beside those of its training.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from sbp_jax.evaluation.markdown import table

COLUMNS = (
    "documents", "unique tokens", "parameters", "passes", "synthetic share", "seeds", "baseline",
    "tuned", "SBP", "oracle", "from the baseline", "from the tuned one", "d2 about d1", "d2 true",
    "facts known", "FLOPs",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdirs", nargs="*", type=Path)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    points = [read(workdir) for workdir in given.workdirs if (workdir / "report").exists()]
    if not points:
        print("no workdir of a finished bootstrap is named; docs/regime.md has the commands")
        return
    points.sort(key=lambda point: (point["parameters"], point["unique tokens"]))
    print(table([list(COLUMNS), *(line(point) for point in points)], left=0))
    if given.figure:
        draw(points, given.figure)


def read(workdir: Path) -> dict:
    results = json.loads((workdir / "report" / "results.json").read_text())
    arms, config = results["arms"], results["config"]
    summary = json.loads((workdir / arms["baseline"][0]["run"] / "summary.json").read_text())
    quality = {row["metric"]: row["synthetic"]["value"] for row in results["quality"]["table"]}
    sbp = arms["sbp"][0]
    facts = {
        name: np.mean([run["fact_accuracy"]["value"] for run in runs])
        for name, runs in arms.items()
    }
    return {
        "documents": results["corpus"]["documents"],
        "unique tokens": results["corpus"]["tokens"],
        "parameters": summary["params"],
        "passes": config["train"]["tokens"] / results["corpus"]["tokens"],
        "synthetic share": config["arms"]["synthetic_share"],
        "seeds": len(arms["sbp"]),
        "losses": {name: [run["held_out_loss"] for run in runs] for name, runs in arms.items()},
        "gap": results["gap_recovered"],
        "d2 about d1": 1 - quality["exact.pair_irrelevance"],
        "d2 true": 1 - quality["exact.non_factual"],
        "facts": facts,
        "FLOPs": sbp["total_flops"] / sbp["train_flops"],
    }


def line(point: dict) -> list[str]:
    losses = {name: np.mean(values) for name, values in point["losses"].items()}
    facts = point["facts"]
    return [
        f"{point['documents']:,}",
        f"{point['unique tokens']:,}",
        f"{point['parameters']:,}",
        f"{point['passes']:.1f}",
        f"{point['synthetic share']:.0%}",
        str(point["seeds"]),
        *(f"{losses[a]:.3f}" if a in losses else "–" for a in ("baseline", "tuned_baseline")),
        *(f"{losses[a]:.3f}" for a in ("sbp", "oracle")),
        share(point["gap"]),
        share(point["gap"].get("tuned_baseline")),
        f"{point['d2 about d1']:.0%}",
        f"{point['d2 true']:.0%}",
        ", ".join(f"{facts[a]:.0%}" for a in ("baseline", "sbp", "oracle")),
        f"{point['FLOPs']:.2f}",
    ]


def share(found: dict | None) -> str:
    if not found or found["value"] is None:
        return "–"
    if found["low"] is None:  # the oracle's own gain is not certain
        return f"{found['value']:.0%}"
    return f"{found['value']:.0%} [{found['low']:.0%}, {found['high']:.0%}]"


def draw(points: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4), constrained_layout=True)
    for label, of in (
        ("from repetition", lambda gap: gap),
        ("from tuned repetition", lambda gap: gap.get("tuned_baseline")),
    ):
        some = [(p["unique tokens"], of(p["gap"])) for p in points]
        some = [(tokens, gap) for tokens, gap in some if gap and gap["low"] is not None]
        at = [tokens for tokens, _ in some]
        middle = np.array([gap["value"] for _, gap in some])
        ends = np.array(
            [[gap["value"] - gap["low"], gap["high"] - gap["value"]] for _, gap in some]
        )
        axis.errorbar(at, middle, yerr=ends.T, fmt="o", capsize=3, label=label)
    axis.axhline(0, color="0.5", linewidth=1)
    axis.set(xscale="log", xlabel="unique tokens", ylabel="share of the oracle's gain")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
