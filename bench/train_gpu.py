"""Training on one GPU: tokens/s and MFU of our step, against a Llama in plain, compiled torch.

    PYTHONPATH=. python bench/train_gpu.py [--sizes=1B,3B] [--repeats=3] [--steps=20]
    PYTHONPATH=. python bench/train_gpu.py --sizes=tiny     # anywhere; says nothing about speed

Both sides: the same architecture and shapes, 4,096 tokens of context, one fixed batch, causal mask
without documents, bfloat16 compute with float32 parameters and moments, clipping, AdamW (torch's
fused one). Each runs in a process of its own; the sides take turns; figures are medians over the
turns. MFU is model FLOPs over the dense bfloat16 peak: six per weight and token, attention over the
causal half, no recomputation (sbp_jax/training/flops.py).

A setting is BATCH:REMAT; a side takes the first of its settings that fits the memory, of those
below or of --jax=8:none,4:minimal and --torch=8:none,4:full. Needs jax, flax, optax, numpy, torch.
Flags for the compilers come from the environment: XLA_FLAGS, JAX_OPTIMIZATION_LEVEL,
TORCHINDUCTOR_MAX_AUTOTUNE.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from sbp_jax.config import DataConfig, Experiment, ModelConfig, TrainConfig

# Of both sides: the shapes (those of Llama 3.2, with a vocabulary of 32,768) and the context.
SIZES = {
    "1B": (ModelConfig(16, 2048, 32, 8, 64, 8192, 32_768), 4096),
    "3B": (ModelConfig(28, 3072, 24, 8, 128, 8192, 32_768), 4096),
    "tiny": (ModelConfig(2, 64, 4, 2, 16, 192, 512), 128),
}
# Recomputing costs more than a small batch does, as long as a matmul has some 8,192 rows. Ours has
# the remat policies of transformer.py; torch's compiler recomputes by itself what is cheap.
SETTINGS = {
    ("1B", "jax"): "8:none,4:none,4:minimal,2:minimal,1:full",
    ("1B", "torch"): "8:none,4:none,2:none,4:full,1:full",
    ("3B", "jax"): "4:none,4:minimal,2:none,2:minimal,1:full",
    ("3B", "torch"): "4:none,2:none,4:full,2:full,1:full",
}
# Of JAX's process. One device has no collectives to hide or to combine, and cuBLAS or Triton is
# chosen by timing them, so XLA needs no flags of ours; an unknown one would end the process.
ENVIRONMENT = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
OUT_OF_MEMORY = 3  # exit status of a turn

# A step, which returns its loss without waiting for it; and what there is to tell at the end.
Side = tuple[Callable[[], Any], Callable[[], dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="1B,3B")
    parser.add_argument("--sides", default="jax,torch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--jax", default="", help="settings to try")
    parser.add_argument("--torch", default="", help="settings to try")
    parser.add_argument("--attention", default="auto", help="ours: auto, cudnn, triton, xla")
    parser.add_argument("--torch_attention", default="cudnn", help="or flash")
    parser.add_argument("--scan", action="store_true", help="ours: one compiled layer, looped")
    parser.add_argument("--run", help="SIDE:SIZE:BATCH:REMAT, one turn: what the rest starts")
    arguments = parser.parse_args()
    if arguments.run:
        run_side(arguments)
        return
    sizes = arguments.sizes.split(",")
    if sizes != ["tiny"] and jax_backend() != "gpu":
        asked = os.environ.get("JAX_PLATFORMS")
        why = f"JAX_PLATFORMS={asked}" if asked else "JAX sees none"
        print(f"no GPU: skipped ({why}; --sizes=tiny runs without one)")
        return
    with tempfile.TemporaryDirectory() as folder:  # so that the turns compile once
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
        for size in sizes:
            compare(size, arguments)


def jax_backend() -> str:
    """Asked in another process, for a backend takes the GPU's memory."""
    program = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    done.check_returncode()
    return done.stdout.strip()


def compare(size: str, arguments: argparse.Namespace) -> None:
    sides = arguments.sides.split(",")
    default = {side: SETTINGS.get((size, side), "4:none") for side in sides}
    settings = {side: (getattr(arguments, side) or default[side]).split(",") for side in sides}
    turns: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(arguments.repeats):
        for side in sides:
            while (figures := start_side(side, size, settings[side][0])) is None:
                print(f"{size} {side} {settings[side].pop(0)}: out of memory", flush=True)
                turns[side].clear()
                if not settings[side]:
                    sys.exit(f"{size} {side}: no setting fits this device")
            turns[side].append(figures)
    medians = []
    for side in sides:
        medians.append(statistics.median(turn["tokens_per_s"] for turn in turns[side]))
        first = turns[side][0]
        print(
            f"{size:4} {side:5} {medians[-1]:>9,.0f} tokens/s{mfu(size, medians[-1], first)}, "
            f"setting {settings[side][0]}, attention {first['attention']}, "
            f"loss {first['loss']:.3f}, {first['device']}, {first['version']}"
        )
    if sides == ["jax", "torch"]:
        ratio = medians[0] / medians[1]
        print(f"{size:4} jax / torch: {ratio:.2f} (medians of {arguments.repeats})", flush=True)


def mfu(size: str, rate: float, turn: dict[str, Any]) -> str:
    from sbp_jax.training.flops import flops_per_token, published_peak

    peak = published_peak(turn["device"])
    if peak is None:  # a CPU, or a device of which we know none
        return ""
    used = rate * flops_per_token(*SIZES[size]) / peak
    return f", MFU {used:.1%} of {peak / 1e12:,.0f} TFLOP/s, {turn['peak_gib']:.1f} GiB at most"


def start_side(side: str, size: str, setting: str) -> dict[str, Any] | None:
    """The figures of one turn, from a process of its own; None where the memory is too small."""
    command = [sys.executable, __file__, *sys.argv[1:], f"--run={side}:{size}:{setting}"]
    environment = {**ENVIRONMENT, **os.environ} if side == "jax" else os.environ
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == OUT_OF_MEMORY:
        return None
    if done.returncode:
        sys.exit(f"{size} {side} {setting} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_side(arguments: argparse.Namespace) -> None:
    side, size, batch, remat = arguments.run.split(":")
    make = {"jax": jax_step, "torch": torch_step}[side]
    try:
        step, facts = make(*SIZES[size], int(batch), remat, arguments)
        for _ in range(3):
            loss = float(step())
        start = time.perf_counter()
        for _ in range(arguments.steps):
            pending = step()
        loss = float(pending)  # waits for the last of them
        seconds = (time.perf_counter() - start) / arguments.steps
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error):
            sys.exit(OUT_OF_MEMORY)
        raise
    assert np.isfinite(loss)
    rate = int(batch) * SIZES[size][1] / seconds
    print(json.dumps({"tokens_per_s": rate, "loss": loss, **facts()}))


def jax_step(
    model: ModelConfig, length: int, batch_size: int, remat: str, arguments: argparse.Namespace
) -> Side:
    """The trainer's own step, compiled ahead of time as the trainer does."""
    import jax

    from sbp_jax.model.attention import choose_backend
    from sbp_jax.model.transformer import compute_dtype
    from sbp_jax.parallel import batch_sharding, make_mesh
    from sbp_jax.training import step as training

    how = {"remat": remat, "attention": arguments.attention, "scan_layers": arguments.scan}
    experiment = Experiment(
        model=dataclasses.replace(model, **how),
        data=DataConfig(sequence_length=length, document_mask=False),
        train=TrainConfig(batch_size=batch_size, tokens=batch_size * length * 100, z_loss=0.0),
    )
    device = jax.devices()[0]
    mesh = make_mesh(experiment.mesh, [device])
    compiled = training.trace_train_step(experiment, mesh).lower().compile()
    shardings = training.state_shardings(experiment, mesh)
    state = jax.jit(partial(training.init_state, experiment), out_shardings=shardings)()
    tokens = random_tokens(model, length, batch_size)
    ones = np.ones((batch_size, length))
    values = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "segments": ones, "weights": ones}
    batch = {
        name: jax.device_put(values[name].astype(shape.dtype), batch_sharding(mesh))
        for name, shape in training.batch_shapes(experiment).items()
    }
    flags = training.stop_flags(mesh, False)

    def step() -> jax.Array:
        nonlocal state
        state, metrics = compiled(state, batch, flags)
        return metrics["loss"]

    def facts() -> dict[str, Any]:
        request = {"platform": device.platform, "length": length, "dtype": compute_dtype(model)}
        memory = device.memory_stats() or {}
        return {
            "device": device.device_kind,
            "version": f"jax {jax.__version__}",
            "attention": choose_backend(arguments.attention, **request, segments=False),
            "peak_gib": memory.get("peak_bytes_in_use", 0) / 2**30,
        }

    return step, facts


def torch_step(
    model: ModelConfig, length: int, batch_size: int, remat: str, arguments: argparse.Namespace
) -> Side:
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torch.utils.checkpoint import checkpoint

    assert remat in ("none", "full"), remat
    c, gpu = model, torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    device_name = torch.cuda.get_device_name() if gpu else "cpu"
    if gpu:  # this kernel or an error: nothing slower takes its place in silence
        for name in ("cudnn", "flash", "mem_efficient", "math"):
            getattr(torch.backends.cuda, f"enable_{name}_sdp")(name == arguments.torch_attention)

    def scale(width: int) -> nn.Parameter:
        return nn.Parameter(torch.ones(width))

    def norm(x, scale):
        y = x.float()
        y = y * torch.rsqrt((y * y).mean(-1, keepdim=True) + c.norm_eps)
        return (y * scale).to(x.dtype)

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            linear = partial(nn.Linear, bias=False)
            heads, kv_heads = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
            width = c.d_model
            self.attention_norm, self.mlp_norm = scale(width), scale(width)
            self.q_norm, self.k_norm = scale(c.head_dim), scale(c.head_dim)
            self.wq, self.wo = linear(width, heads), linear(heads, width)
            self.wk, self.wv = linear(width, kv_heads), linear(width, kv_heads)
            self.gate, self.up = linear(width, c.d_ff), linear(width, c.d_ff)
            self.down = linear(c.d_ff, width)

        def forward(self, x, cos, sin):
            def rotated(y):
                a, b = y.float().chunk(2, dim=-1)
                return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(y.dtype)

            h = norm(x, self.attention_norm)
            q, k, v = (w(h).unflatten(-1, (-1, c.head_dim)) for w in (self.wq, self.wk, self.wv))
            q, k = rotated(norm(q, self.q_norm)), rotated(norm(k, self.k_norm))
            y = F.scaled_dot_product_attention(
                *(z.transpose(1, 2) for z in (q, k, v)), is_causal=True, enable_gqa=True
            )
            x = x + self.wo(y.transpose(1, 2).flatten(2))
            h = norm(x, self.mlp_norm)
            return x + self.down(F.silu(self.gate(h)) * self.up(h))

    class Llama(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(c.vocab_size, c.d_model)
            self.layers = nn.ModuleList(Layer() for _ in range(c.num_layers))
            self.final_norm = scale(c.d_model)
            frequency = c.rope_theta ** (-torch.arange(0, c.head_dim, 2) / c.head_dim)
            angles = torch.arange(length)[:, None, None] * frequency
            self.register_buffer("cos", angles.cos())
            self.register_buffer("sin", angles.sin())

        def forward(self, tokens, targets):
            x = self.embed(tokens).to(dtype)
            for layer in self.layers:
                call = partial(checkpoint, layer, use_reentrant=False) if remat == "full" else layer
                x = call(x, self.cos, self.sin)
            logits = F.linear(norm(x, self.final_norm), self.embed.weight)
            return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    torch.manual_seed(0)
    with torch.device(device):
        llama = Llama()
    for parameter in llama.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=c.d_model**-0.5)
    matrices = [p for p in llama.layers.parameters() if p.ndim > 1]
    others = [p for p in llama.parameters() if not any(p is matrix for matrix in matrices)]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), fused=True)
    forward = torch.compile(llama)
    tokens = torch.from_numpy(random_tokens(c, length, batch_size)).to(device)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=gpu):
            loss = forward(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(llama.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    def facts() -> dict[str, Any]:
        return {
            "device": device_name,
            "version": f"torch {torch.__version__}",
            "attention": arguments.torch_attention if gpu else "cpu",
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if gpu else 0.0,
        }

    return step, facts


def random_tokens(model: ModelConfig, length: int, batch_size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, model.vocab_size, (batch_size, length + 1))


if __name__ == "__main__":
    main()
