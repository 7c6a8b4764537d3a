"""What the paper's runs cost: FLOPs, chip-hours and price of every stage, all of it computed.

    python bench/plan_sbp.py                                   # the paper's three scales
    python bench/plan_sbp.py --mfu=0.4 --v5p_price=2 --gpu_price=2
    python bench/plan_sbp.py --config=configs/gpu.py

Prints the tables of docs/reproduction.md. Training, embedding and the search of neighbours are
model FLOPs at --mfu of a chip's peak. Drawing tokens is bound by memory: a step reads the weights
once and every row's keys and values, at --bandwidth of what an H100's memory gives. Answers are
taken to be as long as documents. Prices are what the reader pays an hour; the defaults are
examples.
"""

import argparse
import runpy

from sbp_jax.config import Experiment, ModelConfig, resolve
from sbp_jax.training.flops import PEAK_FLOPS, flops_per_token, matmul_params

DOCUMENT = 828  # tokens: DCLM's 482B in 582M documents
UNIQUE = {"200b_3b": 10e9, "1t_3b": 50e9, "1t_6b": 50e9}  # real tokens
PAPER_HOURS = {"200b_3b": 11e3, "1t_3b": 59e3, "1t_6b": 265e3}  # of v5p
V5P, H100 = PEAK_FLOPS["TPU v5"], PEAK_FLOPS["NVIDIA H100"]
H100_BANDWIDTH = 3.35e12  # bytes a second
QWEN3_EMBEDDING = ModelConfig(  # 0.6B
    num_layers=28, d_model=1024, num_heads=16, num_kv_heads=8, head_dim=128, d_ff=3072,
    vocab_size=151_669,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", help="a config file of one's own, on one GPU")
    parser.add_argument("--mfu", type=float, default=0.5, help="model FLOPs over the peak")
    parser.add_argument("--bandwidth", type=float, default=0.5, help="share of the memory's")
    parser.add_argument("--v5p_price", type=float, default=4.2, help="USD an hour of a chip")
    parser.add_argument("--gpu_price", type=float, default=3.0, help="USD an hour of an H100")
    flags = parser.parse_args()
    if flags.config:
        return one_gpu(resolve(runpy.run_path(flags.config)["get_config"]("")))
    for name, unique in UNIQUE.items():
        experiment = resolve(runpy.run_path(f"configs/{name}.py")["get_config"](""))
        print(f"**`configs/{name}.py`**\n")
        print("\n".join(table(experiment, unique, PAPER_HOURS[name], flags)), "\n")


def table(e: Experiment, unique: float, paper: float, flags: argparse.Namespace) -> list[str]:
    documents = unique / DOCUMENT
    train = e.train.tokens * flops_per_token(e.model, e.data.sequence_length)
    on_tpus = {
        "embed": embedding_flops(documents),
        "neighbors": 2 * documents**2 * e.pairing.dimensions,
        "tune": e.tuning.tokens * flops_per_token(e.model, e.data.sequence_length),
        "each arm's training": train,
    }
    lines = ["| stage | FLOPs | hours | USD |", "|---|---|---|---|"]
    for stage, flops in on_tpus.items():
        hours = flops / (V5P * flags.mfu) / 3600
        price = hours * flags.v5p_price
        lines.append(f"| {stage} | {flops:.1e} | {hours:,.1f} v5p | {price:,.0f} |")
    drawn = documents * e.synthesis.per_document * DOCUMENT
    flops = 2.0 * matmul_params(e.model) * 2 * drawn  # prompts are read, as many tokens
    rate = tokens_per_s(e, flags.bandwidth)
    hours = drawn / rate / 3600
    price = hours * flags.gpu_price
    lines.append(f"| synthesize | {flops:.1e} | {hours:,.1f} H100 | {price:,.0f} |")
    beside = flops + sum(on_tpus.values()) - train
    used = [arms * train / (paper * 3600 * V5P) for arms in (1, 3)]
    return [
        *lines,
        "",
        f"{documents / 1e6:.1f} million documents, {e.synthesis.per_document} answers to each: "
        f"{drawn / 1e9:.0f}B tokens at {rate:,.0f} a second and GPU; vectors take "
        f"{documents * e.pairing.dimensions * 4 / 1e9:.0f} GB. What is not training takes "
        f"{beside / train:.0%} of an arm's FLOPs. The paper's {paper:,.0f} v5p hours "
        f"are an MFU of {used[0]:.0%} for one arm, {used[1]:.0%} if they hold all three.",
    ]


def embedding_flops(documents: float) -> float:
    logits = 2 * QWEN3_EMBEDDING.d_model * QWEN3_EMBEDDING.vocab_size  # which it has not
    return documents * DOCUMENT * (flops_per_token(QWEN3_EMBEDDING, DOCUMENT) / 3 - logits)


def tokens_per_s(e: Experiment, bandwidth: float) -> float:
    """Of one H100: rows as many as the engine has, each half-way through its answer."""
    m = e.model
    context = 1.5 * DOCUMENT
    row = 2 * 2 * m.num_layers * m.num_kv_heads * m.head_dim * context  # bfloat16 keys and values
    step = 2 * matmul_params(m) + e.engine.batch_size * row
    return e.engine.batch_size * H100_BANDWIDTH * bandwidth / step


def one_gpu(e: Experiment) -> None:
    flops = e.train.tokens * flops_per_token(e.model, e.data.sequence_length)
    print(
        f"{matmul_params(e.model):,} weights, {e.train.tokens:,} tokens an arm: {flops:.2g} FLOPs"
    )
    for mfu in (0.1, 0.25, 0.5):
        print(f"an arm at {mfu:.0%} of an H100's peak: {flops / (H100 * mfu) / 60:.0f} minutes")
    kept = e.arms.synthetic_share * e.train.tokens
    for share in (0.6, 0.8):
        print(
            f"{kept:,.0f} synthetic tokens, {share:.0%} of those drawn, at 50,000 a second: "
            f"{kept / share / 50_000 / 3600:.1f} hours"
        )


if __name__ == "__main__":
    main()
