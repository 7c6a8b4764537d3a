"""Settings of the laptop's run: one core, text as bytes.

The rate, the optimizer and the initialization are those of the full size. The shape is the one that
learns most in so short a time among those that were tried: one layer beats two, for it is faster.
"""

vocabulary = 256
context = 128
layers = 1
heads = 2
width = 64
mlp_ratio = 4
init_scale = 0.02
dtype = "float32"

batch_rows = 8
parts = 1  # that go through the device one after another, if memory is short
peak_rate = 1.5e-3
warmup_steps = 32
schedule = "cosine"
final_share = 0.1  # of the peak, at the end
beta1 = 0.9
beta2 = 0.95
weight_decay = 0.1
clip_norm = 1.0

reserve_seconds = 0.5
log_every = 100
