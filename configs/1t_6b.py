"""SBP at the 1T scale with a 6B model: 1T tokens, of which 50B are unique (arXiv 2509.15248).

    python -m sbp_jax.train --config=configs/1t_6b.py:baseline --workdir=gs://BUCKET/1t_6b/baseline

and likewise `:sbp`, `:oracle`. The paper reports 265K TPU v5p hours, and for the average of its
question answering 58.29 (baseline), +1.32 (SBP), +2.26 (oracle). Layers and widths are our
reconstruction, 5.77B parameters without embeddings. What is published and what is our choice:
configs/200b_3b.py.
"""

import runpy
from pathlib import Path


def get_config(argument: str = ""):
    paper = runpy.run_path(str(Path(__file__).parent / "200b_3b.py"))
    config = paper["get_config"]("")
    config.model.update(num_layers=32, d_model=4096, num_heads=32, num_kv_heads=8, d_ff=11_264)
    config.train.tokens = 119_210 * 2048 * 4096  # 1T, in whole steps
    paper["set_arm"](config, argument, unique="50b", oracle="482b", real=750e9, synthetic=250e9)
    return config
