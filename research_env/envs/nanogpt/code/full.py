"""Settings of the full run: GPT-2 124M on FineWeb, 262,144 tokens a step, on eight GPUs."""

vocabulary = 50304  # GPT-2's 50,257, filled up to a multiple of 128
context = 1024
layers = 12
heads = 12
width = 768
mlp_ratio = 4
init_scale = 0.02
dtype = "bfloat16"

batch_rows = 256
parts = 1  # that go through the devices one after another, if memory is short
peak_rate = 1.5e-3
warmup_steps = 256
schedule = "cosine"
final_share = 0.1  # of the peak, at the end
beta1 = 0.9
beta2 = 0.95
weight_decay = 0.1
clip_norm = 1.0

reserve_seconds = 20.0
log_every = 100
