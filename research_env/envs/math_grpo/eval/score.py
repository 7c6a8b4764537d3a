"""The share of problems whose answer is right; one that lacks is wrong."""

import json
import os
import sys
from pathlib import Path

LABELS = Path(os.environ.get("LABELS", "/labels"))
PREDICTIONS = Path(os.environ.get("PREDICTIONS", "/predictions"))

right = [line.partition("=")[2] for line in (LABELS / "problems.txt").read_text().split()]
path = PREDICTIONS / "answers.txt"
if not path.is_file() or path.is_symlink():
    sys.exit("predictions/answers.txt is missing")
given = path.read_bytes().decode(errors="replace").splitlines()
if len(given) != len(right):
    sys.exit(f"{len(given)} answers to {len(right)} problems")
correct = sum(a == b for a, b in zip(given, right, strict=True))
print(json.dumps({"score": correct / len(right), "problems": len(right)}))
