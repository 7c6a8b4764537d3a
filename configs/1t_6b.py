"""SBP at the 1T scale with a 6B model: 1T tokens, of which 50B are unique (arXiv 2509.15248).

    python -m sbp_jax.train --config=configs/1t_6b.py:baseline --workdir=runs/1t_6b/baseline
    python -m sbp_jax.train --config=configs/1t_6b.py:sbp --workdir=runs/1t_6b/sbp
    python -m sbp_jax.train --config=configs/1t_6b.py:oracle --workdir=runs/1t_6b/oracle
    python -m sbp_jax.bootstrap --config=configs/1t_6b.py --workdir=runs/1t_6b/loop

Every arm sees 1T tokens. Baseline: 50B, 20 times. SBP: 750B of those 50B (15 times) and 250B
synthetic, once: a share of 0.25. Oracle: all of the 482B tokens that there are, 2.07 times.
Expected, for the average of the paper's question answering: 58.29 (baseline), +1.32 (SBP), +2.26
(oracle); SBP recovers 58% of the gain. The paper reports 265K TPU v5p hours; we compute 52,500 for
each arm at 45% of the chip's peak (sbp_jax.plan). Nothing was run at this scale with this
code.

Layers and widths are our reconstruction, 5.77B parameters without embeddings. What else is
published and what is our choice: configs/200b_3b.py. Every stage as a command:
docs/reproduction.md.
"""

import runpy
from pathlib import Path


def get_config(argument: str = ""):
    paper = runpy.run_path(str(Path(__file__).parent / "200b_3b.py"))
    config = paper["get_config"]("")
    config.model.update(num_layers=32, d_model=4096, num_heads=32, num_kv_heads=8, d_ff=11_264)
    config.train.tokens = 119_210 * 2048 * 4096  # 1T, in whole steps
    paper["set_loop"](config, unique=50e9, synthetic=250e9, tuning_steps=4768, every_steps=500)
    paper["set_arm"](
        config, argument, "1t_6b", data="1t", unique="50b", oracle="482b", real=750e9,
        synthetic=250e9,
    )  # fmt: skip
    return config
