"""A whole search, in its own process and with real sandboxes, driven by a scripted model that makes
the mistakes of real ones.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from research_env.bank import Bank

ROOT = Path(__file__).parents[3]
CONFIG = f"--config={ROOT / 'configs' / 'laptop.py'}"
MUCH = "to {:g}, for the top has to be there, and by more than the noise."


class Author:
    """Has one idea a call. Its ideas say what will go wrong with them."""

    def __init__(self):
        self.calls = self.busy = 0
        self.ideas = [
            "Raise X in settings.py " + MUCH.format(2.5),
            "?",  # no JSON at all, and once more
            "?",
            "Raise X in settings.py " + MUCH.format(2.5),  # which was had
            "MISQUOTED: set X in settings.py " + MUCH.format(2.75),
            "CRASHING: set X in settings.py " + MUCH.format(2.9),
            "TAMPERING: print a score of 1000 in eval/score.py, whatever happens.",
            "HOPELESS: a change that no patch ever makes, as often as one asks for it.",
            "Use a second constant in a file of its own, and add it to X: both 1.5.",
        ]

    def __call__(self, messages):
        self.calls += 1
        if self.calls % 4 == 0:
            self.busy += 1
            return 429, {"retry-after-ms": "5"}
        prompt, last = messages[0]["content"], messages[-1]["content"]
        if "Number of ideas:" in prompt:
            idea = self.ideas.pop(0) if self.ideas else "?"
            return json.dumps({"ideas": [{"title": idea[:30], "idea": idea}]}) if idea[1:] else idea
        return self.change(re.search(r" idea>>>\n(.*?)<<<END", prompt, re.DOTALL)[1], prompt, last)

    def change(self, idea, prompt, last):
        told = (re.findall(r" to ([\d.]+),", idea) or [0.0])[0]
        if "MISQUOTED" in idea and "could not be made" not in last:
            return block("X = 7.0", f"X = {told}")
        if "CRASHING" in idea:
            if "ZeroDivisionError" in prompt:
                return block("X = 2.9 / 0", f"X = {told}")
            return block("X = 0.0", "X = 2.9 / 0")
        if "TAMPERING" in idea:
            return block("x = float", "x = 1000", "../eval/score.py")
        if "HOPELESS" in idea:
            return "I would rather talk about it."
        if "second constant" in idea:
            return block("", "Y = 1.5", "extra/more.py") + block(
                "X = 0.0", "from extra.more import Y\nX = 1.5 + Y"
            )
        return f"Here it is:\n```\n{block('X = 0.0', f'X = {told}')}```"


def block(old, new, path="settings.py"):
    old = old + "\n" if old else ""
    return f"{path}\n<<<<<<< SEARCH\n{old}=======\n{new}\n>>>>>>> REPLACE\n"


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--engine=api"], "--engine=api needs --config"),
        (["--engine=api", CONFIG], "config.api.model is empty"),
        (["--engine=vllm", CONFIG], "--checkpoint is missing"),
        (["--engine=api", CONFIG, "--config.api.model=a", "--max_cost=1"], "input_price"),
        (["--max_tokens=9"], "--engine=mutator makes none"),
    ],
)
def test_what_a_model_needs_and_has_not_is_one_line(flags, said, tmp_path):
    command = [sys.executable, "-m", "research_env.search", "--env=synthetic", *flags]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'a'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr


def test_a_scripted_model_drives_a_search_from_its_ideas_to_a_verdict(serve, parabola, tmp_path):
    author = Author()
    server = serve(author)
    workdir = tmp_path / "search"
    fields = {
        "api.url": server.url,
        "api.model": "scripted",
        "api.input_price": 1.0,
        "research.ideas": 10,
        "research.samples": 2,
        "research.revisions": 1,
        "research.retries": 1,
    }
    command = [sys.executable, "-m", "research_env.search", f"--env={parabola}", "--ideas=7"]
    command += [f"--workdir={workdir}", "--engine=api", "--max_cost=1", "--slots=2", "--top=1"]
    command += [CONFIG, *(f"--config.{name}={value}" for name, value in fields.items())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with Bank(workdir / "ideas.db") as bank:
        ideas = {idea.text.split()[0] if idea.title != "no idea" else "no idea": idea
                 for idea in bank.ideas()[1:]}  # fmt: skip
        assert len(bank.ideas()) == 8 and author.busy
        states = {name: idea.state for name, idea in ideas.items()}
        assert states == {
            "Raise": "ok",
            "no idea": "patch_failed",
            "MISQUOTED:": "ok",
            "CRASHING:": "ok",
            "TAMPERING:": "tampered",
            "HOPELESS:": "patch_failed",
            "Use": "ok",
        }
        # In the place of the duplicate, another one was asked for.
        assert sum("2.5," in idea.text for idea in ideas.values()) == 1
        assert "MISQUOTED" in ideas["MISQUOTED:"].text
        assert len(bank.repairs(ideas["CRASHING:"].id)) == 1
        assert "ZeroDivisionError" in bank.repairs(ideas["CRASHING:"].id)[0][1]
        assert "/ 0" not in ideas["CRASHING:"].diff
        assert ideas["Use"].score > 9.9 and "new file mode" in ideas["Use"].diff
        assert ideas["TAMPERING:"].reason
        for idea in ideas.values():
            assert idea.author == "scripted" and idea.tokens > 0 and idea.cost > 0
            assert "Number of ideas: 10" in bank.context(idea.context)
        assert bank.get("author")["models"] == ["scripted"]
        verdict = bank.get("verdict")
        assert verdict["significant"] and bank.idea(verdict["idea"]).score > 9.5
        assert verdict["said"] in done.stdout
    served = 110 * (author.calls - author.busy)
    assert sum(idea.tokens for idea in ideas.values()) >= served - 220  # what nobody paid yet
