"""An ideator that learns from rewards, on any laptop (docs/learning_to_research.md).

    python -m research_env.learn --config=configs/learn_laptop.py --workdir=runs/learn

The small model reads the mutator's ideas for `synthetic` once (`train`), then has ideas of its own,
64 a step, and learns from their scores (`grpo`).
"""

from sbp_jax.config import arm_and_words, new_config

STEP = 16 * 128  # tokens of the warm-up


def get_config(argument: str = ""):
    arm_and_words(argument)
    config = new_config()
    config.model.update(
        num_layers=2, d_model=64, num_heads=4, num_kv_heads=4, head_dim=16, d_ff=192,
        vocab_size=384, scan_layers=False,
    )  # fmt: skip
    config.data.sequence_length = 128
    config.train.update(batch_size=16, tokens=200 * STEP)
    config.optimizer.peak_lr = 3e-3
    config.eval.max_sequences = 16
    config.grpo.update(
        steps=100, prompts=1, group=64, batch_size=64, max_tokens=96, peak_lr=3e-4,
        evaluated=1, every_steps=100, kept_texts=64,
    )  # fmt: skip
    config.engine.batch_size = 64
    return config
