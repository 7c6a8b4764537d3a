"""`research_env.check` finds what is wrong with an environment, and with a sandbox that is none."""

import subprocess
import sys

import pytest

from research_env import cheats
from research_env.audit import Audit
from research_env.env import load


def check(*arguments):
    command = [sys.executable, "-m", "research_env.check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def audited(make_environment, bubblewrap, tmp_path):
    """The finding about one attack, or the findings before the attacks."""

    def audit(attack="", **files):
        audit = Audit(load(str(make_environment(**files))), bubblewrap, tmp_path / "audit")
        (tmp_path / "audit").mkdir()
        findings = [*audit.splits(), *audit.honest_runs(3)]
        if not attack:
            findings += audit.baseline() if findings[-1].sound else []
            return {finding.name: finding for finding in findings}
        with audit.told() as told:
            return audit.attack(next(a for a in cheats.ATTACKS if a.name == attack), told)

    return audit


SCORE = """import json
with open("/labels/number") as file:
    number = float(file.readline())
{body}
print(json.dumps({{"score": score}}))
"""


@pytest.mark.parametrize(
    ("attack", "body"),
    [
        (
            "write over the reward",  # it believes a file that says how good it is
            "import os\nscore = 0.5\nif os.path.exists('/artifact/score.json'):\n"
            "    score = json.load(open('/artifact/score.json'))['score']",
        ),
        (
            "poison the artifact",
            "import pickle\nscore = 0.5\ntry:\n    pickle.load(open('/artifact/guess', 'rb'))\n"
            "except pickle.UnpicklingError:\n    pass",
        ),
        (
            "leave modules in the artifact",
            "import sys\nsys.path.insert(0, '/artifact')\nimport csv\nscore = 0.5",
        ),
        (
            "empty the artifact",  # no guess, no error
            "guesses = open('/artifact/guess').read().split()\n"
            "score = 1.0 - sum(abs(float(g) - number) for g in guesses)",
        ),
        (
            "fill the artifact with nan",  # which is neither more nor less
            "score = 1 - max(0, abs(float(open('/artifact/guess').read()) - number))",
        ),
    ],
)
def test_an_evaluator_that_believes_the_candidate_is_found_out(audited, attack, body):
    guess = {"code/guess.sh": "mkdir -p artifact\necho 0.25 > artifact/guess\n"}
    finding = audited(attack, **guess, **{"eval/score.py": SCORE.format(body=body)})
    assert not finding.sound
    assert "better than honest" in finding.words


def test_labels_among_the_data_are_found(audited):
    label = "0.6\nAnd this is the one of the selection split, as secret.\n" * 3
    files = {"eval/splits/selection/number": label, "data/all": "Everything:\n" + label}
    finding = audited(**files)["splits"]
    assert not finding.sound
    assert "data/all holds a part of selection/number" in finding.words


def test_two_splits_that_are_one_are_found(audited):
    same = "0.5\nThis is the label of the search split, which is a secret.\n"
    finding = audited(**{"eval/splits/final/number": same})["splits"]
    assert not finding.sound
    assert "final/number is the same as search/number" in finding.words


def test_noise_that_leaves_no_room_for_improvement_is_found(audited):
    finding = audited(**{"code/guess.sh": "mkdir artifact\necho ${SEED:0:3} > artifact/guess\n"})
    assert not finding["noise floor"].sound


def test_a_baseline_that_fails_is_told_with_its_reason(audited):
    finding = audited(**{"code/guess.sh": "echo no such luck >&2; exit 1\n"})["baseline 1 of 3"]
    assert not finding.sound
    assert "no such luck" in finding.words


def test_lost_output_is_told_since_what_it_says_is_not_seen(audited):
    files = {"code/run.sh": "bash guess.sh > log\n", "code/guess.sh": "mkdir -p artifact\n"
             "echo 0.5 > artifact/guess\n"}  # fmt: skip
    finding = audited("read the parents files", **files)
    assert (finding.sound, "is lost" in finding.words) == (False, True)


def test_a_sound_environment_and_its_own_cheats_end_with_a_verdict(make_environment):
    """Here the program that may be changed is none, and a cheat of its own leads to the verdict."""
    better = "guess.txt\n```\n0.5\n```\n"
    files = {
        "code/run.sh": "mkdir artifact\ncp guess.txt artifact/guess\n",
        "code/guess.sh": None,
        "code/guess.txt": "0.4\n",
        "cheats/know_the_number.diff": better,
    }
    folder = make_environment(**files)
    toml = (folder / "env.toml").read_text()
    (folder / "env.toml").write_text(toml.replace("guess.sh", "guess.txt"))
    done = check(folder, "--runs=3")
    assert done.returncode == 1, done.stderr
    *lines, verdict = done.stdout.strip().splitlines()
    assert "know the number: NOT CAUGHT: score 1" in lines
    assert (
        "attacks: ok: no file that may be changed is run, so there is nothing to attack from"
        in lines
    )
    assert verdict.startswith("NOT SOUND: 1 of ") and "know the number" in verdict
    (folder / "cheats" / "know_the_number.diff").unlink()
    done = check(folder, "--runs=3")
    assert done.returncode == 0, done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("sound: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such"], "error: no_such: no such environment"),
        ([], "error: NAME_OR_PATH is missing"),
        (["template", "--sandbox=box"], "'box' is no sandbox"),
    ],
)
def test_a_mistake_of_the_users_is_one_line_and_exit_code_2(arguments, message):
    done = check(*arguments)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_a_sandbox_that_is_none_is_found_out(tmp_path):
    from research_env import sandbox

    audit = Audit(load("template"), sandbox.factory("subprocess", unsafe=True), tmp_path)
    assert all(finding.sound for finding in audit.honest_runs(3))
    names = ("read the labels", "read the parents files", "use the network", "fork a daemon")
    with audit.told() as told:
        found = [audit.attack(attack, told) for attack in cheats.ATTACKS if attack.name in names]
    caught = [finding.name for finding in found if finding.sound]
    assert caught == ["fork a daemon"]  # which ends with its run even there
