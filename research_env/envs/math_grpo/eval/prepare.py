"""The problems without their answers."""

import os
from pathlib import Path

LABELS = Path(os.environ.get("LABELS", "/labels"))
WORK = Path(os.environ.get("WORK", "/work"))

lines = (LABELS / "problems.txt").read_text().split()
(WORK / "inputs").mkdir(exist_ok=True)
(WORK / "inputs" / "problems.txt").write_text(
    "\n".join(line.partition("=")[0] + "=" for line in lines)
)
