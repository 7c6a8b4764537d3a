"""Settings of an imaginary training run: what an idea may change."""

LEARNING_RATE = 0.001
WARMUP_STEPS = 100
BATCH_SIZE = 32
WEIGHT_DECAY = 0.1
DROPOUT = 0.3
WIDTH = 128
DEPTH = 4
BETA2 = 0.999
OPTIMIZER = "sgd"
ACTIVATION = "relu"
SCHEDULE = "constant"
NORM = "layernorm"
USE_BIAS = True
TIE_EMBEDDINGS = False
