"""The loop of SBP on one GPU of 80 GB (H100, H200): 62M parameters, 19M unique tokens, 20 passes.

    python -m sbp_jax.bootstrap --config=configs/gpu.py --workdir=runs/gpu
    python -m sbp_jax.bootstrap --config=configs/gpu.py:quick --workdir=runs/gpu_quick
    python -m sbp_jax.bootstrap --config=configs/gpu.py --workdir=runs/mine \\
        --config.data.input=my_texts/ --config.arms.oracle_input=more_of_the_kind/

The embedded world made a hundred times larger: 300,000 documents of 65 tokens about 30,000
concepts. On your own text, have 20M tokens of 4,096 pieces or set train.tokens to 20 times what you
have; without further documents there is no oracle. `:quick` is a tenth in documents and steps, for
a first look.

Nothing was measured on a GPU. Computed: 1.6e17 model FLOPs an arm, 11 minutes at 25% of an H100's
989 TFLOP/s, 26 at 10%; the synthesizer's 150M kept tokens take 1.4 hours at 50,000 tokens a second
drawn, of which 60% are kept: both are assumptions.

    python -m sbp_jax.plan --config=configs/gpu.py --topology=h100:1 --mfu=0.25 \\
        --draw_rate=50000 --kept=0.6 --document_tokens=65

With three arms, two to three hours. Expected, if the small runs' trend holds
(docs/lab_notebook.md): SBP ahead of plain repetition. What is known of where it wins is measured at
smaller sizes.
"""

from sbp_jax.config import arm_and_words, new_config


def get_config(argument: str = ""):
    words = arm_and_words(argument, "quick")
    tenth = 10 if "quick" in words else 1
    config = new_config()
    config.model.update(
        num_layers=12, d_model=640, num_heads=10, num_kv_heads=10, head_dim=64, d_ff=1728,
        vocab_size=4096, dropout=0.1,
    )  # fmt: skip
    # As many documents to a concept as in the small world, and twenty times the tokens for the
    # oracle, which repeats nothing.
    config.toyworld.update(
        concepts=30_000 // tenth, documents=300_000 // tenth, fresh_documents=6_300_000 // tenth,
        held_out_documents=2000,
    )  # fmt: skip
    config.data.update(sequence_length=512, workers=8)
    config.train.update(
        batch_size=128, tokens=6000 // tenth * 128 * 512, samples=0, log_every=50,
    )  # fmt: skip
    config.optimizer.update(peak_lr=1e-3, final_lr=1e-4)
    config.eval.update(every_steps=500 // tenth, max_sequences=512)
    config.checkpoint.every_steps = 1000 // tenth
    # Half a pass over about a million pairs.
    config.tuning.update(
        tokens=1000 // tenth * 128 * 512, batch_size=128, peak_lr=3e-4, final_lr=3e-5,
        every_steps=100 // tenth, dropout=0.1,
    )  # fmt: skip
    config.synthesis.update(prompt="{text}\n", max_tokens=256, per_document=13)
    config.engine.update(batch_size=512)
    config.arms.synthetic_share = 0.375  # as at the paper's 200B scale
    return config
