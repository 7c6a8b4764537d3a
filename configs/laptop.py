"""Trains a 1M-parameter model on the embedded corpus, on any laptop.

    python -m sbp_jax.train --config=configs/laptop.py --workdir=runs/laptop
    python -m sbp_jax.train --config=configs/laptop.py:quick --workdir=runs/quick

With `--config.data.input=PATH` it trains on your own documents instead.
"""

from sbp_jax.config import arm_and_words, new_config


def get_config(argument: str = ""):
    words = arm_and_words(argument, "quick")
    config = new_config()
    config.model.update(
        num_layers=4, d_model=128, num_heads=4, num_kv_heads=2, head_dim=32, d_ff=384,
        scan_layers=False,  # so few layers compile quickly, and run a fifth faster on CPUs
    )  # fmt: skip
    config.model.vocab_size = 1024
    config.data.sequence_length = 128
    config.train.batch_size = 32
    config.train.tokens = (100 if "quick" in words else 400) * 32 * 128
    return config
