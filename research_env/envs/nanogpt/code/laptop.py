"""Settings of the laptop's run: one core, text as bytes."""

vocabulary = 256
context = 128
layers = 2
heads = 4
width = 96
mlp_ratio = 4
init_scale = 0.02
dtype = "float32"

batch_rows = 16
parts = 1
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
