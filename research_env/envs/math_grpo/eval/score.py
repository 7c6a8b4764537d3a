"""The share of problems whose answer is right; one that lacks is wrong."""

import json
import os
import sys
from pathlib import Path

LABELS = Path(os.environ.get("LABELS", "/labels"))
PREDICTIONS = Path(os.environ.get("PREDICTIONS", "/predictions"))

right = [line.partition("=")[2] for line in (LABELS / "problems.txt").read_text().split()]
path = PREDICTIONS / "answers.json"
if not path.is_file() or path.is_symlink():
    sys.exit("predictions/answers.json is missing")
try:
    given = json.loads(path.read_bytes())
except ValueError as error:
    sys.exit(f"predictions/answers.json is no JSON: {error}")
if not isinstance(given, list) or len(given) != len(right):
    sys.exit(f"predictions/answers.json must be a list of {len(right)} answers")
correct = sum(a == b for a, b in zip(given, right, strict=True))
print(json.dumps({"score": correct / len(right), "problems": len(right)}))
