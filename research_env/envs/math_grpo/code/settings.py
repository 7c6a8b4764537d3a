"""Settings of the reinforcement."""

prompts = 32  # of a step
group = 8  # answers to each, compared with each other
temperature = 1.0
learning_rate = 3e-4
warmup_steps = 5
beta1 = 0.9
beta2 = 0.95
weight_decay = 0.0
clip_norm = 1.0

clip = 0.2  # of the ratio
passes = 1  # over the answers of a step
divide_by_deviation = True
epsilon = 1e-6
schedule = "constant"  # or linear

reserve_seconds = 1.0
log_every = 50
