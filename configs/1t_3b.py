"""SBP at the 1T scale with a 3B model: 1T tokens, of which 50B are unique (arXiv 2509.15248).

    python -m sbp_jax.train --config=configs/1t_3b.py:baseline --workdir=runs/1t_3b/baseline
    python -m sbp_jax.train --config=configs/1t_3b.py:sbp --workdir=runs/1t_3b/sbp
    python -m sbp_jax.train --config=configs/1t_3b.py:oracle --workdir=runs/1t_3b/oracle
    python -m sbp_jax.bootstrap --config=configs/1t_3b.py --workdir=runs/1t_3b/loop

Every arm sees 1T tokens. Baseline: 50B, 20 times. SBP: 875B of those 50B (17.5 times) and 125B
synthetic, once: a share of 0.125. Oracle: all of the 482B tokens that there are, 2.07 times.
Expected, for the average of the paper's question answering: 55.35 (baseline), +0.84 (SBP), +1.73
(oracle); SBP recovers 49% of the gain. The paper reports 59K TPU v5p hours; we compute 24,700 for
each arm at 45% of the chip's peak (sbp_jax.plan). Nothing was run at this scale with this
code.

What is published and what is our choice: configs/200b_3b.py. Every stage as a command:
docs/reproduction.md.
"""

import runpy
from pathlib import Path


def get_config(argument: str = ""):
    paper = runpy.run_path(str(Path(__file__).parent / "200b_3b.py"))
    config = paper["get_config"]("")
    config.train.tokens = 119_210 * 2048 * 4096  # 1T, in whole steps
    paper["set_loop"](config, unique=50e9, synthetic=125e9, tuning_steps=4768, every_steps=500)
    paper["set_arm"](
        config, argument, "1t_3b", data="1t", unique="50b", oracle="482b", real=875e9,
        synthetic=125e9,
    )  # fmt: skip
    return config
