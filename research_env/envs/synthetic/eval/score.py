"""The score of the settings that a run left behind."""

import json
import os
import sys
from pathlib import Path

import landscape

settings = json.loads(Path("/artifact/settings.json").read_text())
try:
    score = landscape.measured(settings, os.environ["SPLIT"], int(os.environ["SEED"]), os.environ)
except (landscape.Crashed, landscape.OutOfMemory) as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(json.dumps({"score": score}))
