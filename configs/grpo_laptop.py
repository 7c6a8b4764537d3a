"""GRPO on any laptop: a tiny model that adds badly teaches itself to add, in minutes.

    python -m sbp_jax.train --config=configs/grpo_laptop.py --workdir=runs/addition
    python -m sbp_jax.grpo --config=configs/grpo_laptop.py --init_from=runs/addition \\
        --workdir=runs/grpo

The first is the supervised warm-up, an ordinary run of the trainer that is stopped early, when a
fifth of the sums are right. `:reinforce` is REINFORCE with the group's mean as its baseline, in
place of the clipped ratio.
"""

from sbp_jax.config import arm_and_words, new_config

STEP = 16 * 64  # tokens of the warm-up


def get_config(argument: str = ""):
    words = arm_and_words(argument, "reinforce")
    config = new_config()
    config.model.update(
        num_layers=2, d_model=64, num_heads=4, num_kv_heads=4, head_dim=16, d_ff=192,
        vocab_size=274, scan_layers=False,
    )  # fmt: skip
    config.data.update(input="addition", sequence_length=64, held_out=0.02)
    config.train.update(batch_size=16, tokens=45 * STEP)
    config.optimizer.peak_lr = 3e-3
    config.eval.max_sequences = 16
    config.grpo.update(
        steps=250, prompts=50, group=16, batch_size=400, max_tokens=8, peak_lr=7e-4, every_steps=25,
    )  # fmt: skip
    config.engine.batch_size = 400
    if "reinforce" in words:
        config.grpo.update(loss="reinforce", advantage="mean")
    return config
