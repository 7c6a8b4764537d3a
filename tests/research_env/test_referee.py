"""Every run ends in exactly one state, and nothing that a candidate says or leaves is believed."""

import importlib.util
import os
from pathlib import Path

import pytest

from research_env import referee
from research_env.env import load
from research_env.outcome import State
from research_env.sandbox.protocol import Ended, Executed

_SPEC = importlib.util.spec_from_file_location(
    "environments", Path(__file__).with_name("conftest.py")
)
_CONFTEST = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_CONFTEST)
FILES = _CONFTEST.FILES


def guess(text):
    """A diff that puts this into guess.sh."""
    return f"guess.sh\n````\n{text}\n````\n"


@pytest.fixture
def judged(make_environment, bubblewrap, tmp_path):
    def judge(script=None, split="search", seed=4, smoke=False, diff="", **files):
        environment = load(str(make_environment(**files)))
        diff = guess(script) if script is not None else diff
        logs = tmp_path / "run"
        return referee.judge(environment, diff, split, seed, bubblewrap, logs, smoke)

    return judge


def test_the_baseline_is_scored_on_the_split_that_is_asked_for(judged, tmp_path):
    for split, score in (("search", 0.9), ("selection", 0.8), ("final", 0.7)):
        outcome = judged(split=split)
        assert (outcome.state, outcome.score) == (State.OK, pytest.approx(score))
        assert outcome.metrics == {"guess": 0.4}
    assert sorted(os.listdir(tmp_path / "run")) == ["run.log", "score.log"]


def test_a_change_is_applied_and_its_print_is_kept_but_not_believed(judged):
    outcome = judged("mkdir artifact; echo 0.5 > artifact/guess; echo '{\"score\": 9}'")
    assert outcome.score == 1.0
    assert '{"score": 9}' in outcome.log


@pytest.mark.parametrize(
    ("script", "state", "reason"),
    [
        ("echo oh no >&2; exit 3", State.CRASHED, "run: oh no (exit code 3)"),
        ("kill -SEGV $$", State.CRASHED, "exit code 139"),
        ("sleep 60", State.TIMED_OUT, "more than 2 s"),
        ("python -c 'x = bytearray(2**31)'", State.OUT_OF_MEMORY, "MemoryError"),
        (
            "python -c 'x = [b\"x\" * 2**20 for _ in range(900)]'",
            State.OUT_OF_MEMORY,
            "512 allowed",
        ),
        ("true", State.INVALID_METRIC, "artifact/ is missing"),
        ("echo > artifact", State.INVALID_METRIC, "artifact must be a folder"),
        ("mkdir artifact; echo x > artifact/guess", State.INVALID_METRIC, "ValueError"),
        ("mkdir artifact; echo nan > artifact/guess", State.INVALID_METRIC, "not within"),
        (
            "mkdir artifact; echo 1e9 > artifact/guess",
            State.INVALID_METRIC,
            "not within -1000 to 1",
        ),
        ("mkdir artifact; ln -s /labels/number artifact/guess", State.TAMPERED, "artifact/guess"),
        ("mkdir artifact; ln -s other artifact/guess", State.TAMPERED, "artifact/guess"),
        ("mkdir artifact; mkfifo artifact/guess", State.TAMPERED, "artifact/guess"),
        ("ln -s /labels artifact", State.INVALID_METRIC, "artifact"),
        ("echo echo > run.sh; mkdir artifact; echo 0.5 > artifact/guess", State.TAMPERED, "run.sh"),
        ("rm run.sh; mkdir artifact; echo 0.5 > artifact/guess", State.TAMPERED, "run.sh"),
        ("mv run.sh x; ln -s x run.sh; mkdir artifact", State.TAMPERED, "run.sh"),
    ],
)
def test_a_run_ends_in_one_state_with_a_reason(judged, script, state, reason):
    outcome = judged(script, wall_seconds=2 if state is State.TIMED_OUT else 20)
    assert (outcome.state, outcome.score) == (state, None), outcome
    assert reason in outcome.reason
    assert "\n" not in outcome.reason


def test_a_diff_that_does_not_fit_and_one_that_reaches_elsewhere(judged):
    outcome = judged(diff="--- a/guess.sh\n+++ b/guess.sh\n@@ -1 +1 @@\n-no such line\n+x\n")
    assert (outcome.state, "hunk 1" in outcome.reason) == (State.PATCH_FAILED, True)
    outcome = judged(diff="run.sh\n```\necho\n```\n")
    assert (outcome.state, outcome.reason) == (
        State.TAMPERED,
        "run.sh: only guess.sh may be changed",
    )


def test_a_new_file_that_python_would_run_by_itself_is_tampering(judged):
    toml = FILES["env.toml"].replace('["guess.sh"]', '["**"]')
    outcome = judged(diff="sitecustomize.py\n```\nprint(1)\n```\n", **{"env.toml": toml})
    assert (outcome.state, "sitecustomize" in outcome.reason) == (State.TAMPERED, True)


SEES = """
for place in /eval /labels /key /inputs /predictions /artifact /data; do
  [ -e $place ] && echo "sees $place"
done
echo "SEED=$SEED SPLIT=$SPLIT SECRET=$SECRET RUN_SECONDS=$RUN_SECONDS"
"""


def test_the_run_sees_its_data_and_no_more(judged):
    outcome = judged(SEES + "mkdir artifact; echo 0.5 > artifact/guess; cat /data/hint")
    assert outcome.score == 1.0
    seen = [line for line in outcome.log.splitlines() if line.startswith("sees")]
    assert seen == ["sees /data"]
    assert "SEED=4 SPLIT= SECRET= RUN_SECONDS=\n" in outcome.log
    assert "between 0 and 1" in outcome.log


def test_predictions_are_made_from_inputs_without_labels_and_scored_with_the_key(judged):
    outcome = judged(SEES, predicting=True)
    assert (outcome.state, outcome.score) == (State.OK, 0.5), outcome
    assert [line for line in outcome.log.splitlines() if line.startswith("sees")] == [
        "sees /inputs",
        "sees /data",
    ]
    assert "secret" not in outcome.log


def test_prediction_starts_from_the_files_as_they_were_applied(judged):
    """Not from those that the run left, and its own hour is limited and watched as well."""
    files = {"code/run.sh": "mkdir artifact\necho trained > artifact/state\nrm -f guess.sh *.md\n"}
    assert judged("true", predicting=True, **files).score == 0.5
    for script, state in (
        ("rm predictions/answer; ln -s /key predictions/answer", State.TAMPERED),
        ("echo > predict.sh", State.TAMPERED),
        ("exit 1", State.CRASHED),
        ("rm -r predictions", State.INVALID_METRIC),
    ):
        assert judged(script, predicting=True).state is state


def test_the_evaluator_gets_the_seed_the_split_and_the_harness_clock(judged):
    score = """import json, os
names = ("SEED", "SPLIT", "RUN_SECONDS")
print(json.dumps({"score": 0.0, **{name: float(os.environ[name]) for name in names}}))
"""
    toml = FILES["env.toml"] + '[splits]\nsearch = "7"\n'
    files = {"eval/score.py": score, "env.toml": toml}
    fake = "sleep 0.5; mkdir artifact; echo 0.0 > artifact/RUN_SECONDS"
    outcome = judged(fake, **files)
    assert (outcome.metrics["SEED"], outcome.metrics["SPLIT"]) == (4, 7)
    assert 0.5 <= outcome.metrics["RUN_SECONDS"] <= outcome.seconds


@pytest.mark.parametrize(
    "printed",
    ["", "0.5", "{}", '{"score": true}', '{"score": "1"}', '{"score": NaN}', '{"score": 1e400}',
     '{"score": null}', '[{"score": 1}]', '{"score": 1} and more', '{"score": -Infinity}'],
)  # fmt: skip
def test_an_evaluator_that_prints_no_valid_score_is_an_invalid_metric(judged, printed):
    outcome = judged(**{"eval/score.py": f"print({printed!r})"})
    assert (outcome.state, outcome.score) == (State.INVALID_METRIC, None)


def test_an_evaluator_that_changes_under_a_search_is_not_used(
    make_environment, bubblewrap, tmp_path
):
    folder = make_environment()
    environment = load(str(folder))
    with (folder / "eval" / "score.py").open("a") as file:
        file.write("print('{\"score\": 1}')\n")
    outcome = referee.judge(environment, "", "search", 0, bubblewrap, tmp_path / "run")
    assert outcome.state is State.INFRASTRUCTURE
    assert "score.py has changed since the environment was loaded" in outcome.reason


def test_a_smoke_run_has_a_tiny_budget_and_any_finite_score_will_do(judged):
    script = "mkdir artifact; echo ${STEPS:-0.5} > artifact/guess"
    smoke = "[smoke]\nSTEPS = 5000.0\nwall_seconds = 10\n"
    assert judged(script, toml=smoke).score == 1.0
    assert judged(script, toml=smoke, smoke=True).score == -4998.5
    outcome = judged("sleep 60", toml=smoke.replace("10", "1"), smoke=True)
    assert (outcome.state, "more than 1 s" in outcome.reason) == (State.TIMED_OUT, True)


def test_a_sandbox_that_fails_is_infrastructure(make_environment, tmp_path):
    environment = load(str(make_environment()))

    class Broken:
        def __init__(self, resource, read_only):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def copy_in(self, source, target):
            pass

        def exec(self, command, limits, environment=None):
            return Executed(Ended.INFRASTRUCTURE, -9, b"", b"", False, 0.0, "the node has died")

    def full(resource, read_only):
        raise OSError("No space left on device")

    for factory, reason in ((Broken, "run: the node has died"), (full, "No space left")):
        outcome = referee.judge(environment, "", "search", 0, factory, tmp_path / "run")
        assert (outcome.state, outcome.reason.startswith(reason)) == (State.INFRASTRUCTURE, True)


def test_the_environment_reads_like_the_abstraction(make_environment, bubblewrap, tmp_path):
    environment = load(str(make_environment()))
    task = referee.research_env(environment, bubblewrap, tmp_path / "run")
    assert "Name a number." in task.context()
    assert task.value(guess("mkdir artifact; echo 0.5 > artifact/guess")) == 1.0
    assert task.value(guess("exit 1")) == float("-inf")
