"""The problems without their answers. Nothing of them is secret but these."""

import os
from pathlib import Path

LABELS = Path(os.environ.get("LABELS", "/labels"))
WORK = Path(os.environ.get("WORK", "/work"))

lines = (LABELS / "problems.txt").read_text().split()
for name in ("inputs", "key"):
    (WORK / name).mkdir(exist_ok=True)
(WORK / "inputs" / "problems.txt").write_text(
    "\n".join(line.partition("=")[0] + "=" for line in lines)
)
