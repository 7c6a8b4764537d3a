"""A small environment: the candidate names a number, and the nearer to the split's, the better."""

import pytest

TOML = """
name = "guess"
description = "Name a number."

[metric]
name = "nearness"
direction = "maximize"
valid = [-1000.0, 1.0]

[paths]
editable = ["guess.sh"]

[run]
command = "bash run.sh"
limits = { wall_seconds = 20, memory_mb = 512, disk_mb = 16, processes = 32 }

[score]
limits = { wall_seconds = 20 }
"""
FILES = {
    "env.toml": TOML,
    "code/run.sh": "set -e\nbash guess.sh\n",
    "code/guess.sh": "mkdir -p artifact\necho 0.$SEED > artifact/guess\n",
    "data/hint": "It is a number between 0 and 1.\n",
    "eval/score.py": """import json
with open("/artifact/guess") as file:
    guess = float(file.read())
with open("/labels/number") as file:
    number = float(file.readline())
print("scored")
print(json.dumps({"score": 1 - abs(guess - number), "guess": guess}))
""",
    "eval/splits/search/number": "0.5\nThis is the label of the search split, which is a secret.\n",
    "eval/splits/selection/number": "0.6\nAnd this is the one of the selection split, as secret.\n",
    "eval/splits/final/number": "0.7\nThe label of the final split is the most secret of all.\n",
}
PREDICTING = {
    "env.toml": TOML + '\n[predict]\ncommand = "bash predict.sh"\nlimits = { wall_seconds = 20 }\n',
    "code/run.sh": "mkdir artifact\necho trained > artifact/state\n",
    "code/guess.sh": "",
    "code/predict.sh": "set -e\nmkdir predictions\ncp /inputs/question predictions/answer\n"
    "cat artifact/state >> predictions/answer\nbash guess.sh\n",
    "eval/prepare.py": """import os
os.makedirs("/work/inputs")
with open("/labels/number") as file:
    number = file.readline()
with open("/work/inputs/question", "w") as file:
    file.write("question\\n")
with open("/work/key", "w") as file:
    file.write(number + os.environ["SECRET"])
""",
    "eval/score.py": """import json
with open("/predictions/answer") as file:
    words = file.read().split()
with open("/key") as file:
    number, secret = file.read().split()
assert int(secret) > 0
print(json.dumps({"score": float(number) if words == ["question", "trained"] else 0.0}))
""",
}


@pytest.fixture
def make_environment(tmp_path):
    """Writes the folder of one, which differs in the files named (None: it is not there)."""

    def make(predicting=False, wall_seconds=20, toml="", **files):
        folder = tmp_path / "environment"
        texts = FILES | (PREDICTING if predicting else {}) | files
        limit = f"wall_seconds = {wall_seconds}, memory_mb"
        texts["env.toml"] = texts["env.toml"].replace("wall_seconds = 20, memory_mb", limit) + toml
        for path, text in texts.items():
            if text is not None:
                place = folder / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text)
        return folder

    return make


@pytest.fixture(scope="session")
def bubblewrap():
    from research_env import sandbox

    return sandbox.factory("bubblewrap")
