import csv
import json
import os
import random

DEGREE = 3
LEARNING_RATE = 0.05
STEPS = int(os.environ.get("STEPS", "4000"))

draw = random.Random(int(os.environ["SEED"]))
with open(os.environ.get("SANDBOX_ROOT", "") + "/data/points.csv") as file:
    points = [(float(x), float(y)) for x, y in csv.reader(file)]
weights = [draw.gauss(0, 1) for _ in range(DEGREE + 1)]
for _ in range(STEPS):
    x, y = draw.choice(points)
    powers = [x**k for k in range(DEGREE + 1)]
    error = sum(w * p for w, p in zip(weights, powers, strict=True)) - y
    weights = [w - LEARNING_RATE * error * p for w, p in zip(weights, powers, strict=True)]
os.makedirs("artifact", exist_ok=True)
with open("artifact/coefficients.json", "w") as file:
    json.dump(weights, file)
