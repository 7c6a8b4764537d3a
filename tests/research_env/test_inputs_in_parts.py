"""Inputs that a candidate must not see together are predicted on apart."""

from research_env import env, referee
from research_env.outcome import State
from research_env.sandbox.bubblewrap import bubblewrap

FILES = {
    "env.toml": """
        name = "parts"
        description = "Says what it is given."
        metric = { name = "files seen", direction = "minimize", valid = [0, 100] }
        paths = { editable = ["answer.txt"] }
        run = { command = "mkdir artifact && echo 1 > artifact/weights" }
        predict = { command = "bash predict.sh" }
    """,
    "code/answer.txt": "",
    "code/predict.sh": "mkdir predictions && ls /inputs >> artifact/weights\n"
    "cat artifact/weights > predictions/seen",
    "eval/prepare.py": """
from pathlib import Path
for part in "ab":
    Path("/work/inputs", part).mkdir(parents=True)
    Path("/work/inputs", part, f"{part}.txt").write_text(part)
Path("/work/key").mkdir()
""",
    "eval/score.py": """
from pathlib import Path
seen = {part.name: (part / "seen").read_text().split() for part in Path("/predictions").iterdir()}
assert seen == {"a": ["1", "a.txt"], "b": ["1", "b.txt"]}, seen
print('{"score": 1}')
""",
}


def test_each_part_is_predicted_on_without_the_others(tmp_path):
    for name, text in FILES.items():
        (tmp_path / "parts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "parts" / name).write_text(text)
    environment = env.load(str(tmp_path / "parts"))
    outcome = referee.judge(environment, "", "search", 0, bubblewrap, tmp_path / "run")
    assert outcome.state is State.OK, outcome
