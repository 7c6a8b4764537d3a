"""Training on CPU: our step against transformers' Qwen3 on torch, eager and compiled.

    python bench/train_cpu.py [--sizes=1M,5M,20M] [--repeats=3] [--steps=10]

The same architecture, shapes (32 x 128, vocabulary 1,024), float32, AdamW, clipping, causal mask
without documents, one fixed batch. Each side runs in a process of its own, all with
huge pages, which our trainer asks for; the sides take turns, and the figures are medians over the
turns of the median step. The last column is what counts: ours against the better of the other two.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from sbp_jax import cli

BATCH, LENGTH, VOCAB = 32, 128, 1024
SIZES = {  # about so many parameters: layers, width, heads, key-value heads, head width, MLP width
    "1M": (4, 128, 4, 2, 32, 384),
    "5M": (6, 256, 8, 4, 32, 768),
    "20M": (8, 448, 7, 7, 64, 1280),
}
SIDES = ("jax", "torch", "torch.compile")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--side", choices=SIDES)
    arguments = parser.parse_args()
    sizes = arguments.sizes.split(",")
    if unknown := set(sizes) - set(SIZES):
        parser.error(f"--sizes: unknown {', '.join(unknown)}; known: {', '.join(SIZES)}")
    if arguments.side:
        make = jax_step if arguments.side == "jax" else torch_step
        print(tokens_per_second(make(sizes[0], arguments.side), arguments.steps))
        return
    print(f"{'size':>5} " + " ".join(f"{side:>14}" for side in SIDES) + "   jax / better of torch")
    for size in sizes:
        rates: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(arguments.repeats):
            for side in SIDES:
                flags = [f"--sizes={size}", f"--side={side}", f"--steps={arguments.steps}"]
                done = subprocess.run(
                    [sys.executable, __file__, *flags], capture_output=True, text=True, check=True
                )
                rates[side].append(float(done.stdout.split()[-1]))
        medians = [statistics.median(rates[side]) for side in SIDES]
        figures = " ".join(f"{median:>14,.0f}" for median in medians)
        print(f"{size:>5} {figures}   {medians[0] / max(medians[1:]):.2f}", flush=True)


def tokens_per_second(step: Callable[[], None], steps: int) -> float:
    for _ in range(3):
        step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return BATCH * LENGTH / statistics.median(seconds)


def jax_step(size: str, side: str) -> Callable[[], None]:
    import jax

    experiment, mesh, first_state, compiled = jax_programs(size)
    state, inputs = first_state(), jax_inputs(experiment, mesh)

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, *inputs)
        jax.block_until_ready(metrics)

    return step


def jax_programs(size: str, optimizer: str = "adamw"):
    """Our experiment, a mesh of this machine; compiled for them, the first state and the step."""
    import jax

    from sbp_jax.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig
    from sbp_jax.parallel import make_mesh
    from sbp_jax.training import step as training

    layers, width, heads, kv_heads, head_dim, d_ff = SIZES[size]
    experiment = Experiment(
        model=ModelConfig(
            num_layers=layers,
            d_model=width,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            d_ff=d_ff,
            vocab_size=VOCAB,
            scan_layers=False,
        ),
        data=DataConfig(sequence_length=LENGTH, document_mask=False),
        optimizer=OptimizerConfig(name=optimizer),
        train=TrainConfig(batch_size=BATCH, tokens=BATCH * LENGTH * 100, z_loss=0.0),
    )
    mesh = make_mesh(experiment.mesh)
    shardings = training.state_shardings(experiment, mesh)
    first_state = jax.jit(lambda: training.init_state(experiment), out_shardings=shardings)
    step = training.trace_train_step(experiment, mesh)
    return experiment, mesh, first_state.lower().compile(), step.lower().compile()


def jax_inputs(experiment, mesh):
    """What the step takes besides the state: the batch, and no request to stop."""
    import jax

    from sbp_jax.parallel import batch_sharding
    from sbp_jax.training import step as training

    tokens = random_tokens()
    ones = np.ones((BATCH, LENGTH))
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "segments": ones, "weights": ones}
    shapes = training.batch_shapes(experiment)
    batch = {
        name: jax.device_put(value.astype(shapes[name].dtype), batch_sharding(mesh))
        for name, value in batch.items()
    }
    return batch, training.stop_flags(mesh, False)


def torch_step(size: str, side: str) -> Callable[[], None]:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    layers, width, heads, kv_heads, head_dim, d_ff = SIZES[size]
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB,
            hidden_size=width,
            intermediate_size=d_ff,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            max_position_embeddings=LENGTH,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    forward = torch.compile(model) if side == "torch.compile" else model
    tokens = torch.from_numpy(random_tokens().astype(np.int64))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step() -> None:
        logits = forward(input_ids=inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def random_tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB, (BATCH, LENGTH + 1))


if __name__ == "__main__":
    cli.use_huge_pages()
    main()
