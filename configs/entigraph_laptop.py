"""EntiGraph on any laptop: a model of the toy world is taught a library that it has never seen.

    python -m entigraph.study --config=configs/entigraph_laptop.py --workdir=runs/entigraph

Ten trainings: the model (0.9M parameters, 800 steps); raw, extractive and rewriter on a quarter,
a half and all of 200 steps. Computed: about 9 minutes on two idle cores. Seen in trials (one seed,
docs/entigraph.md): closed book 32% before, 49% raw, 74% by the rewriter.

`:quick` is a smaller one, for a try; `:rephrase` adds that baseline.
"""

from sbp_jax.config import arm_and_words, new_config

STEP = 8 * 256  # tokens


def get_config(argument: str = ""):
    words = arm_and_words(argument, "quick", "rephrase")
    config = new_config()
    config.model.update(
        num_layers=4, d_model=128, num_heads=4, num_kv_heads=2, head_dim=32, d_ff=384,
        vocab_size=1024, dropout=0.1,
        scan_layers=False,  # so few layers compile quickly, and run a fifth faster on CPUs
    )  # fmt: skip
    config.toyworld.update(concepts=200, documents=800, held_out_documents=100)
    config.data.sequence_length = 256  # a dossier of three texts has about as many tokens
    config.train.update(batch_size=8, tokens=200 * STEP, samples=0)
    config.optimizer.update(peak_lr=2e-3, final_lr=2e-4)
    config.eval.update(every_steps=100, max_sequences=128)
    config.checkpoint.every_steps = 200
    config.study.update(
        pretraining_tokens=800 * STEP, pretraining_lr=6e-3, shares="0.25,0.5,1", niche=0.25
    )
    if "rephrase" in words:
        config.study.methods += ",rephrase_medium"
    if "quick" in words:
        config.toyworld.update(concepts=80, documents=200, held_out_documents=40)
        config.train.tokens = 40 * STEP
        config.study.update(pretraining_tokens=100 * STEP, shares="1")
    return config
