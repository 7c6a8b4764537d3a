"""Results as the loop leaves them, of three seeds: what the report's tests show."""

import math
import random
from typing import Any

ARMS = {  # loss at the end, how fast it is reached, how much of it is lost again by repetition
    "baseline": (0.742, 0.12, 0.13),
    "tuned_baseline": (0.716, 0.17, 0.02),
    "oracle": (0.531, 0.2, 0.0),
    "tuned_oracle": (0.528, 0.2, 0.0),
    "sbp": (0.602, 0.21, 0.0),
    "tuned_sbp": (0.597, 0.22, 0.0),
    "random_pairs": (0.709, 0.2, 0.02),
    "unconditional": (0.724, 0.19, 0.03),
    "longer_baseline": (0.738, 0.12, 0.19),
}
D1 = """Maren Okafor was born in the harbour town of Lisk. She trained as a glass-blower and keeps \
a workshop near the old customs house.

In her spare time she collects maps; her favourite is one of the northern fjords."""
D2 = """The glass-blower Maren Okafor comes from Lisk, where her workshop stands beside the \
customs house. Visitors may see her collection of maps."""
D3 = """Asked about her childhood in Lisk, Okafor talks about ships. It was a map of the fjords, \
she says, that made her want to work with glass: <b>the same blue</b>."""


def results(seeds: int = 3) -> dict[str, Any]:
    random_ = random.Random(1)
    made: dict[str, Any] = {
        "title": "Synthetic Bootstrapped Pretraining on the toy world",
        "date": "2026-11-26",
        "hardware": "2 × Intel Xeon 2.9 GHz",
        "versions": {"python": "3.11.9", "jax": "0.10.2", "sbp_jax": "0.1.0"},
        "corpus": {
            "name": "toyworld", "documents": 3000, "tokens": 240_112, "validation_documents": 150,
            "held_out_documents": 200, "oracle_tokens": 3_312_004,
        },
        "arms": {arm: [run(arm, seed, random_) for seed in range(seeds)] for arm in ARMS},
        "gap_recovered": {
            **share(0.66, 0.59, 0.72),
            "tuned_baseline": share(0.616, 0.52, 0.69),
            "longer_baseline": share(0.657, 0.58, 0.73),
            "controls": {
                "random_pairs": share(0.156, 0.03, 0.27),
                "unconditional": share(0.085, -0.04, 0.2),
            },
            "tuned": share(0.634, 0.54, 0.71),
        },
        "stages": [
            {"seed": seed, "arm": arm, "stage": stage, "flops": flops, "wall_s": wall}
            for seed in range(seeds)
            for arm in ARMS
            for stage, flops, wall in stages(arm)
        ],
        "pairing": {
            "counts": {
                "candidates": 15_000, "similarity": 412, "too_short": 0, "near_duplicates": 301,
                "same_source": 0, "over_cap": 87, "pairs": 14_200,
            },
            "pairs": 14_200,
            "scores": {"min": 0.3, "median": 0.58, "max": 0.94},
        },
        "synthesizer": [
            {
                "step": 250, "pair_loss": 0.428 + 0.003 * seed,
                "shuffled_pair_loss": 0.561 + 0.002 * seed,
                "losses": [
                    {"step": step, "loss": 0.42 + 0.35 * math.exp(-step / 60)
                     + 3e-7 * max(0, step - 250) ** 2 + 0.004 * seed,
                     "shuffled_loss": 0.55 + 0.3 * math.exp(-step / 80)}
                    for step in range(50, 501, 50)
                ],
            }
            for seed in range(seeds)
        ],
        "synthesis": {
            "counts": {
                "answers": 41_271, "unfinished": 402, "in_the_corpus": 33, "repeated": 214,
                "copies": 1, "kept": 40_621,
            },
            "documents": 40_621,
            "tokens": 2_948_310,
        },
        "quality": {
            "judge": {
                "engine": "jax", "model": "9f31c2aa",
                "calibration": {
                    "pair_irrelevance": {
                        "questions": 400, "unclear": 12, "accuracy": 0.91,
                        "false_positive_rate": 0.06, "false_negative_rate": 0.12,
                    },
                },
            },
            "table": [
                quality("Repetition", 2.1, 0.1, 1.6, 4.3, 3.9, 2.6, 1.8),
                quality("Duplicate@20K", 0.9, 0.05, 0.7, 0.8, 0.8, 0.3, 0.7),
                quality("Non-factual, exact", 14.2, 0.6, 0.0, 15.1, 8.7, 6.5, 1.8),
                quality("Pair-irrelevance, exact", 6.3, 0.4, None, 25.6, 7.8, 6.0, None),
                quality("Pair-copying", 0.4, 0.02, None, 0.1, 0.9, 0.3, None),
            ],
        },
        "samples": [
            {"d1": D1, "d2": [D2, D3], "concept": "Maren Okafor"},
            {"d1": D3, "d2": [D1, D2], "concept": "The glass of Lisk"},
        ],
        "rounds": [
            {"round": 1, "held_out_loss": 0.602, "gap_recovered": share(0.66, 0.59, 0.72),
             "quality": {"repetition": 2.1, "distinct_4-grams": 0.81}},
            {"round": 2, "held_out_loss": 0.589, "gap_recovered": share(0.72, 0.64, 0.79),
             "quality": {"repetition": 2.6, "distinct_4-grams": 0.77}},
        ],
        "sweep": [
            {"settings": {"arms.synthetic_share": s, "pairing.min_score": m,
                          "synthesis.temperature": 1.0},
             "held_out_loss": [0.602 + d, 0.61 + d, 0.6 + d],
             "gap_recovered": share(0.66 - 4 * d, 0.58 - 4 * d, 0.73 - 4 * d)}
            for s, m, d in ((0.3, 0.3, 0.041), (0.5, 0.3, 0.018), (0.7, 0.5, 0.009))
        ],
        "config": {
            "seed": 0, "model": {"num_layers": 4, "d_model": 160, "dropout": 0.1},
            "data": {"input": "toyworld", "sequence_length": 256},
            "synthesis": {"prompt": "{text}\n", "temperature": 1.0, "max_tokens": 160},
        },
    }  # fmt: skip
    return made


def share(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def quality(
    metric: str, ours: float, error: float, real: float | None, *paper: float | None
) -> dict[str, Any]:
    names = ("paper 200B", "paper 1T 3B", "paper 1T 6B", "paper real")
    beside = None if real is None else {"value": real / 100, "stderr": error / 150}
    return {
        "metric": metric.lower(), "label": metric, "percent": True,
        "synthetic": {"value": ours / 100, "stderr": error / 100}, "real": beside,
        "paper": dict(zip(names, paper, strict=True)),
    }  # fmt: skip


def run(arm: str, seed: int, random_: random.Random) -> dict[str, Any]:
    end, rate, overfit = ARMS[arm]
    luck = random_.gauss(0, 0.008)
    steps = 2000 if arm == "longer_baseline" else 1000
    losses = [
        {
            "step": step,
            "loss": end + luck - overfit + 2.2 * math.exp(-step * rate / 18)
            + 0.35 * math.exp(-step / 260) * (arm != "baseline")
            + overfit * (step / steps) ** 1.6 + random_.gauss(0, 0.003),
        }
        for step in range(50, steps + 1, 50)
    ]  # fmt: skip
    synthetic = arm in ("sbp", "tuned_sbp", "random_pairs", "unconditional")
    flops = 3.4e13 * steps / 1000
    return {
        "seed": seed, "run": f"seed{seed}/{arm}", "held_out_loss": end + luck, "stderr": 0.011,
        "tokens": 4096 * steps, "train_flops": flops,
        "total_flops": sum(spent for _, spent, _ in stages(arm)), "wall_s": 270.0 * steps / 1000,
        "validation_losses": losses,
        "fact_accuracy": {"value": 0.95 - 0.55 * end + random_.gauss(0, 0.01), "stderr": 0.02},
        **({"settings": {"model.dropout": 0.2, "optimizer.weight_decay": 0.1}}
           if arm.startswith("tuned") else {}),
        "consumed": {
            "real": {"tokens": 4096 * steps * (0.3 if synthetic else 1),
                     "share": 0.3 if synthetic else 1.0,
                     "passes": 1.24 if "oracle" in arm else 5.1 if synthetic else 0.0171 * steps},
            **({"synthetic": {"tokens": 2867 * steps, "share": 0.7, "passes": 0.97}}
               if synthetic else {}),
        },
    }  # fmt: skip


def stages(arm: str) -> list[tuple[str, float, float]]:
    times = (4 if arm.startswith("tuned") else 1) * (2 if arm.startswith("longer") else 1)
    made = [("pretrain", 3.4e13 * times, 270.0 * times), ("evaluate", 2.1e11, 6.0)]
    if arm in ("sbp", "tuned_sbp", "random_pairs"):
        made[1:1] = [("pair", 2.3e9, 9.0), ("tune", 1.7e13, 140.0), ("synthesize", 1.6e13, 210.0)]
    if arm == "unconditional":
        made[1:1] = [("synthesize", 9.0e12, 160.0)]
    return made
