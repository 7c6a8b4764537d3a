import csv
import json
import os

root = os.environ.get("SANDBOX_ROOT", "")  # empty in all sandboxes but a mere process
with open(root + "/artifact/coefficients.json") as file:
    weights = [float(w) for w in json.load(file)]
with open(root + "/labels/points.csv") as file:
    points = [(float(x), float(y)) for x, y in csv.reader(file)]
errors = [sum(w * x**k for k, w in enumerate(weights)) - y for x, y in points]
print(json.dumps({"score": (sum(e * e for e in errors) / len(errors)) ** 0.5}))
