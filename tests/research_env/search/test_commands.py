"""The small commands beside a search, as a person gives them."""

import json
import re
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from research_env.bank import QUEUED, RUNNING, SEARCH, Bank
from research_env.running.settings import Settings
from research_env.search import start

pytestmark = pytest.mark.multiprocess


def command(module, *arguments):
    program = [sys.executable, "-m", f"research_env.{module}", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, timeout=600)


def begin(workdir):
    """A search that takes a while, with its first runs under way."""
    given = ["--env=synthetic", "--size=slow", "--ideas=100", "--slots=6", f"--workdir={workdir}"]
    program = [sys.executable, "-m", "research_env.search", *given]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    journal = workdir / "runs" / "begun.jsonl"
    until = time.monotonic() + 600
    while not journal.exists() or len(journal.read_text().splitlines()) < 14:
        assert time.monotonic() < until
        time.sleep(0.02)
    return process


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("done")
    arguments = ("--env=synthetic", "--ideas=12", f"--workdir={workdir}")
    settings = Settings(env="synthetic", workdir=str(workdir), ideas=12, command=arguments, cwd="/")
    start(settings)
    return workdir


def test_stop_waits_for_the_runs_and_resume_goes_on_to_the_end(tmp_path):
    process = begin(tmp_path)
    stopped = command("stop", tmp_path)
    assert (stopped.returncode, process.wait(timeout=600)) == (0, 0), stopped.stderr
    assert "stopped; python -m research_env.resume" in process.stdout.read()
    with Bank(tmp_path / "ideas.db") as bank:
        assert not bank.open_runs(RUNNING)
        ended = {idea.id: idea.score for idea in bank.ended()}
    resumed = command("resume", tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    with Bank(tmp_path / "ideas.db") as bank:
        assert bank.get("phase") == "done"
        assert bank.count() == 100
        assert {number: bank.idea(number).score for number in ended} == ended


def test_stop_now_puts_the_runs_back_and_ends_those_of_a_killed_search_too(tmp_path):
    process = begin(tmp_path)
    assert command("stop", tmp_path, "--now").returncode == 0
    assert process.wait(timeout=600) == 130
    with Bank(tmp_path / "ideas.db") as bank:
        assert bank.open_runs(QUEUED)
        assert not bank.open_runs(RUNNING)
    process = begin(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    told = command("stop", tmp_path).stdout
    if "but" in told:  # else they have ended meanwhile
        assert re.search(r"but \d+ runs that it left are: resume collects them", told)
    command("stop", tmp_path, "--now")
    assert command("stop", tmp_path).stdout == "no search is going on there\n"


def test_rerun_replaces_an_old_result_and_touches_no_verdict(done):
    with Bank(done / "ideas.db") as bank:
        before, verdict = bank.runs(2, SEARCH), bank.get("verdict")
    assert command("rerun", done, 2).returncode == 0
    with Bank(done / "ideas.db") as bank:
        after = bank.runs(2, SEARCH)
        assert [run.attempt for run in after] == [run.attempt for run in before] + [1]
        assert after[-1].seed == before[-1].seed
        assert after[-1].state == before[-1].state
        assert bank.get("verdict") == verdict


def test_a_search_that_is_going_on_takes_up_a_rerun(tmp_path):
    process = begin(tmp_path)
    with Bank(tmp_path / "ideas.db") as bank:
        ended = [idea.id for idea in bank.ended()]
    again = command("rerun", tmp_path, ended[0])
    assert "in the queue of the search that is going on" in again.stdout, again.stderr
    with Bank(tmp_path / "ideas.db") as bank:
        until = time.monotonic() + 600
        while (run := bank.runs(ended[0], SEARCH)[-1]).finished is None:
            assert time.monotonic() < until
            time.sleep(0.05)
    assert (run.attempt, process.poll()) == (1, None)
    assert command("stop", tmp_path, "--now").returncode == 0
    process.wait(timeout=600)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_export_writes_groups_with_rewards(done, tmp_path, suffix):
    output = tmp_path / f"groups.{suffix}"
    assert command("export", done, f"--output={output}").returncode == 0
    if suffix == "jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        rows = pq.read_table(output).to_pylist()
    with Bank(done / "ideas.db") as bank:
        baseline = bank.idea(0).score
        assert [row["id"] for row in rows] == list(range(1, 13))
        for row in rows:
            idea = bank.idea(row["id"])
            assert (row["diff"], row["group"]) == (idea.diff, idea.group_id)
            if idea.score is None:
                assert row["reward"] == min(0, *(other["reward"] for other in rows))
            else:
                assert row["reward"] == pytest.approx(idea.score - baseline)


def test_the_bank_is_listed_in_order_and_in_full(done):
    table = command("bank", done).stdout.splitlines()
    assert len(table) == 14  # with the head and the baseline
    best = command("bank", done, "--best=3", "--json").stdout.splitlines()
    scores = [json.loads(line)["score"] for line in best]
    assert scores == sorted(scores, reverse=True)
    assert json.loads(best[0])["runs"][0]["split"] == SEARCH
    with Bank(done / "ideas.db") as bank:
        crashed = len(bank.ideas("crashed"))
    assert len(command("bank", done, "--state=crashed").stdout.splitlines()) == 1 + crashed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("bank", "nowhere"), "no such bank"),
        (("resume", "nowhere"), "no such bank"),
        (("stop", "nowhere"), "no such bank"),
        (("rerun", "nowhere", "1"), "no such bank"),
        (("bank", "DONE", "--state=fine"), "--state=fine: must be one of queued"),
        (("rerun", "DONE", "99"), "no idea 99"),
        (("rerun", "DONE", "first"), "must be an idea's number"),
        (("rerun", "DONE"), "ID is missing"),
        (("export", "DONE", "--output=x.csv"), "must end in .jsonl or .parquet"),
        (("search", "--env=synthetic"), "--workdir is missing"),
    ],
)
def test_mistakes_are_told_in_one_line(done, tmp_path, arguments, says):
    module, *rest = (str(done) if word == "DONE" else word for word in arguments)
    told = command(module, *rest)
    assert told.returncode == 2
    assert says in told.stderr
    assert told.stderr.count("\n") == 1
