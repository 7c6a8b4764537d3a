"""The model once more, in float64 numpy, written from the definition and not from transformer.py.

One document at a time, one head at a time: slow, and nothing in it to get wrong twice.
"""

import numpy as np


def logits(params, config, tokens):
    """[T, V] for one document of T tokens."""
    p, c = {k: np.asarray(v, np.float64) for k, v in _flat(params)}, config
    x = p["embed"][tokens]
    for layer in range(c.num_layers):
        w = {k.removeprefix("layers/"): v[layer] for k, v in p.items() if k.startswith("layers/")}
        x = x + attention(w, c, norm(x, w["attention_norm"], c))
        h = norm(x, w["mlp_norm"], c)
        gate = h @ w["w_gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["w_up"])) @ w["w_down"]
    x = norm(x, p["final_norm"], c)
    scale = c.mup_base_width / c.d_model if c.parametrization == "mup_simple" else 1
    return scale * (x @ (p["embed"].T if c.tie_embeddings else p["head"]))


def attention(w, c, x):
    out = np.zeros_like(x)
    for head in range(c.num_heads):
        group = head // (c.num_heads // c.num_kv_heads)
        q, k, v = x @ w["wq"][:, head], x @ w["wk"][:, group], x @ w["wv"][:, group]
        if c.attention_bias:
            q, k, v = q + w["bq"][head], k + w["bk"][group], v + w["bv"][group]
        if c.qk_norm:
            q, k = norm(q, w["q_norm"], c), norm(k, w["k_norm"], c)
        q, k = rope(q, c), rope(k, c)
        for t in range(len(x)):
            scores = k[: t + 1] @ q[t] / np.sqrt(c.head_dim)
            weights = np.exp(scores - scores.max())
            out[t] += (weights / weights.sum() @ v[: t + 1]) @ w["wo"][head]
    return out


def rope(x, c):
    """Turns the plane of dimensions i and i + h/2 by position * theta^(-2i/h)."""
    x, half = x.copy(), c.head_dim // 2
    for i in range(half):
        frequency = scaled(c.rope_theta ** (-2 * i / c.head_dim), c)
        for t in range(len(x)):
            turned = complex(x[t, i], x[t, i + half]) * np.exp(1j * t * frequency)
            x[t, i], x[t, i + half] = turned.real, turned.imag
    return x


def scaled(frequency, c):
    wavelength = 2 * np.pi / frequency
    longest = c.rope_original_context / c.rope_scaling_low
    shortest = c.rope_original_context / c.rope_scaling_high
    if c.rope_scaling == 1 or wavelength < shortest:
        return frequency
    if wavelength > longest:
        return frequency / c.rope_scaling
    low, high = c.rope_scaling_low, c.rope_scaling_high
    kept = (c.rope_original_context / wavelength - low) / (high - low)
    return kept * frequency + (1 - kept) * frequency / c.rope_scaling


def norm(x, weight, c):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps) * weight


def _flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value
