"""GRPO of Qwen2.5-Math-1.5B on MATH, one device: the post-training baseline of the automated
researcher (arXiv 2601.14525).

    python -m sbp_jax.convert from-hf Qwen2.5-Math-1.5B weights/qwen
    python -m sbp_jax.grpo --config=configs/grpo_qwen_math_1p5b.py --init_from=weights/qwen \\
        --workdir=runs/grpo_qwen

data/math/train.jsonl and test.jsonl hold MATH's 7,500 problems and MATH-500, with `problem` and
`solution` (GSM8K's `question` and `answer` do as well). The paper's: 20 steps of 128 prompts with 8
texts each, 1,024 tokens at temperature 1, rate 1e-5, clip 0.2, one update a step, no divergence
term; a text is right if it has the asked form and the right answer. `:cs336` sets what the course
of that name uses: 200 steps of 32 prompts, texts that weigh the same whatever their length.

Nothing was run at this scale with this code. An update compiles for four v5p chips (`python -m
sbp_jax.aot --config=configs/grpo_qwen_math_1p5b.py --topology=v5p:2x2x1 --stage=grpo`): 9.7 of 95.7
GiB on each, an estimated 21 s. One chip, and GPUs, were not compiled for.
"""

from sbp_jax.config import arm_and_words, new_config

PROMPT = """A question follows. Think about it first, then say the answer.
Write the thoughts between <think> and </think>, the answer alone between <answer> and </answer>.
Question: {question}
<think>"""


def get_config(argument: str = ""):
    words = arm_and_words(argument, "cs336")
    config = new_config()
    config.model.update(
        num_layers=28, d_model=1536, num_heads=12, num_kv_heads=2, head_dim=128, d_ff=8960,
        vocab_size=151_936, rope_theta=10_000.0, norm_eps=1e-6, qk_norm=False, tie_embeddings=True,
        attention_bias=True, remat="full", loss_chunks=16,
    )  # fmt: skip
    config.data.sequence_length = 2048
    config.optimizer.update(beta1=0.9, beta2=0.95)
    config.train.update(batch_size=1024, tokens=20 * 1024 * 2048, accumulate=64)
    config.grpo.update(
        problems="data/math/train.jsonl", held_out="data/math/test.jsonl", prompt=PROMPT,
        answer=r".*</think>\s*<answer>(.*)</answer>\s*",
        steps=20, prompts=128, group=8, batch_size=1024, max_tokens=1024,
        peak_lr=1e-5, every_steps=5,
    )  # fmt: skip
    config.checkpoint.every_steps = 5
    config.engine.batch_size = 256  # texts that are drawn at a time
    if "cs336" in words:
        config.train.update(batch_size=256, tokens=200 * 256 * 2048, accumulate=16)
        config.grpo.update(steps=200, prompts=32, batch_size=256, length="texts")
    return config
