"""Synthetic Bootstrapped Pretraining on any laptop: a 0.9M-parameter model, 114K unique tokens.

    python -m sbp_jax.bootstrap --config=configs/laptop.py --workdir=runs/bootstrap
    python -m sbp_jax.train --config=configs/laptop.py --workdir=runs/laptop

The first is the whole loop on the embedded toy world: repetition (14 passes), repetition with more
dropout, an oracle with unique documents, and SBP, which wins back 61% of what repetition loses to
the oracle and 22% of what the better regularised one loses (docs/regime.md). The second is its
baseline alone. With `--config.data.input=PATH` both take your own documents.

`:quick` is a smaller one, for a try; `:controls` adds the arms that nobody has published: random
pairs, samples without a document, a baseline with as many FLOPs.
"""

from sbp_jax.config import arm_and_words, new_config

STEP = 8 * 256  # tokens: at this size, twice the steps are worth more than twice the rows


def get_config(argument: str = ""):
    words = arm_and_words(argument, "quick", "controls")
    config = new_config()
    config.model.update(
        num_layers=4, d_model=128, num_heads=4, num_kv_heads=2, head_dim=32, d_ff=384,
        vocab_size=1024, dropout=0.1,
        scan_layers=False,  # so few layers compile quickly, and run a fifth faster on CPUs
    )  # fmt: skip
    config.toyworld.update(concepts=150, documents=1500)
    config.data.sequence_length = 256  # for a pair: documents have about 80 tokens
    config.train.update(batch_size=8, tokens=800 * STEP)
    config.optimizer.peak_lr = 6e-3
    config.eval.update(every_steps=100, max_sequences=128)
    config.checkpoint.every_steps = 200
    # Three in ten of the pairs above 0.3 are about two concepts, one in ten of those above 0.45.
    config.pairing.min_score = 0.45
    config.tuning.update(tokens=500 * STEP, batch_size=8, every_steps=50, peak_lr=2e-3, dropout=0.3)
    config.synthesis.update(prompt="{text}\n", max_tokens=160)
    # The best that were tried: docs/regime.md has the others.
    config.arms.update(
        run="baseline,tuned_baseline,oracle,sbp", synthetic_share=0.5,
        dropouts="0.3", weight_decays="0.5",
        synthesizer="tuned_baseline",  # the baseline's own writes worse: it has learnt by heart
    )  # fmt: skip
    if "controls" in words:
        config.arms.run += ",random_pairs,unconditional,longer_baseline"
    if "quick" in words:
        config.toyworld.update(concepts=60, documents=500)
        config.train.tokens = 200 * STEP
        config.tuning.tokens = 100 * STEP
        run = config.arms.run.replace("tuned_baseline,", "")
        config.arms.update(run=run, synthesizer="baseline", synthetic_share=0.5)
    return config
