"""GRPO on any laptop: a tiny model that adds badly teaches itself to add, in minutes.

    python -m sbp_jax.train --config=configs/grpo_laptop.py --workdir=runs/addition
    python -m sbp_jax.grpo --config=configs/grpo_laptop.py --init_from=runs/addition \\
        --workdir=runs/grpo

The first is the supervised warm-up, an ordinary run of the trainer that is stopped early. `:paper`
sets the algorithm of the automated-researcher paper's baseline, `:reinforce` REINFORCE with the
group's mean as its baseline.
"""

from sbp_jax.config import arm_and_words, new_config

STEP = 16 * 64  # tokens of the warm-up


def get_config(argument: str = ""):
    words = arm_and_words(argument, "paper", "reinforce")
    config = new_config()
    config.model.update(
        num_layers=2, d_model=64, num_heads=4, num_kv_heads=4, head_dim=16, d_ff=192,
        vocab_size=274, scan_layers=False,
    )  # fmt: skip
    config.data.update(input="addition", sequence_length=64, held_out=0.02)
    config.train.update(batch_size=16, tokens=60 * STEP)
    config.optimizer.peak_lr = 3e-3
    config.eval.max_sequences = 16
    config.grpo.update(
        steps=150, prompts=32, group=8, batch_size=256, max_tokens=8, peak_lr=1e-3,
    )  # fmt: skip
    config.engine.batch_size = 256
    if "reinforce" in words:
        config.grpo.update(loss="reinforce", advantage="mean")
    return config
