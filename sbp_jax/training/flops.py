"""Model FLOPs: what the mathematics needs, not what the hardware runs.

Counted: every matmul forward (2 per weight and token) and backward (4); attention's two products
over the *causal* half of the square. Not counted: the embedding's look-up, recomputation, softmax,
norms. MFU = model FLOPs per second / (devices x peak), the peak being dense bfloat16 without
sparsity.
"""

import time

import jax
import jax.numpy as jnp

from sbp_jax.config import ModelConfig

# Dense bfloat16 FLOP/s a JAX device, by the beginning of its device_kind; the longest match counts.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def matmul_params(model: ModelConfig) -> int:
    """Weights that a token is multiplied with; a tied embedding counts once, as the output."""
    m = model
    attention = m.d_model * m.head_dim * (2 * m.num_heads + 2 * m.num_kv_heads)
    return m.num_layers * (attention + 3 * m.d_model * m.d_ff) + m.d_model * m.vocab_size


def flops_per_token(model: ModelConfig, sequence_length: int) -> float:
    """Model FLOPs of one training token, forward and backward."""
    causal = 2 * 2 * model.num_layers * model.num_heads * model.head_dim * sequence_length / 2
    return 6.0 * matmul_params(model) + 3.0 * causal


def published_peak(device_kind: str) -> float | None:
    """FLOP/s of one device, for those that have a published figure."""
    matches = [kind for kind in PEAK_FLOPS if device_kind.startswith(kind)]
    return PEAK_FLOPS[max(matches, key=len)] if matches else None


def peak_flops(device: jax.Device) -> tuple[float, str]:
    """FLOP/s of one device, and where the figure comes from. A CPU is measured, for it has no
    published one.
    """
    if peak := published_peak(device.device_kind):
        return peak, "published dense bfloat16"
    n = 2048
    a = jnp.ones((n, n), jnp.float32 if device.platform == "cpu" else jnp.bfloat16)
    matmul = jax.jit(jnp.matmul)
    matmul(a, a).block_until_ready()
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        matmul(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best, f"measured: a {n} x {n} matmul"
