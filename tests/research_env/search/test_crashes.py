"""Searches that are killed, for real: what is in the bank afterwards, and what was run."""

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from research_env.bank import QUEUED, RUNNING, SEARCH, Bank
from research_env.running.scheduler import open_worker

pytestmark = pytest.mark.multiprocess

IDEAS = 14


def search(workdir, *more):
    command = [sys.executable, "-m", "research_env.search", "--env=synthetic", "--size=slow"]
    command += [f"--workdir={workdir}", f"--ideas={IDEAS}", "--slots=8", "--top=1", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(workdir, *more):
    process = search(workdir, *more)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def begun(workdir):
    lines = (workdir / "runs" / "begun.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def wait_for(condition, seconds=600):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def has_begun(workdir, count):
    journal = workdir / "runs" / "begun.jsonl"
    return lambda: journal.exists() and len(journal.read_text().splitlines()) >= count


def assert_complete(workdir):
    with Bank(workdir / "ideas.db") as bank:
        assert bank.get("phase") == "done"
        assert bank.count() == IDEAS
        assert not bank.open_runs()
        assert not [idea for idea in bank.ideas() if idea.state in (QUEUED, RUNNING)]


def test_killed_at_random_moments_it_loses_nothing_and_runs_nothing_twice(tmp_path):
    for _ in range(6):
        process = search(tmp_path)
        time.sleep(random.uniform(0.3, 2.0))
        process.kill()
        process.wait()
    finished(tmp_path)
    assert_complete(tmp_path)
    starts = collections.Counter(line["run"] for line in begun(tmp_path))
    assert set(starts.values()) == {1}  # workers outlived the searches that had started them
    with Bank(tmp_path / "ideas.db") as bank:
        runs = [run for idea in bank.ideas() for run in bank.runs(idea.id)]
        assert {run.id for run in runs} == set(starts)
        assert {run.attempt for run in runs} == {0}


def test_a_result_that_came_while_no_search_ran_counts(tmp_path):
    process = search(tmp_path)
    wait_for(has_begun(tmp_path, 12))
    process.kill()
    process.wait()
    with Bank(tmp_path / "ideas.db") as bank:
        claimed = bank.open_runs(RUNNING)
    started = {line["run"] for line in begun(tmp_path)}
    left = [run for run in claimed if run.id in started]
    assert left
    folders = [tmp_path / "runs" / str(run.id) for run in left]
    wait_for(lambda: all((folder / "outcome.json").exists() for folder in folders))
    finished(tmp_path)
    with Bank(tmp_path / "ideas.db") as bank:
        for run in left:
            assert bank.run(run.id).state not in (QUEUED, RUNNING, "infrastructure")
    assert max(collections.Counter(line["run"] for line in begun(tmp_path)).values()) == 1


def test_a_machine_that_went_down_costs_an_attempt_and_no_idea(tmp_path):
    process = search(tmp_path)
    wait_for(has_begun(tmp_path, 12))
    process.kill()
    process.wait()
    with Bank(tmp_path / "ideas.db") as bank:
        killed = []
        for run in bank.open_runs(RUNNING):
            pidfd = open_worker(tmp_path / "runs" / str(run.id))
            if pidfd is not None:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                killed.append(run)
    assert killed
    finished(tmp_path)
    assert_complete(tmp_path)
    with Bank(tmp_path / "ideas.db") as bank:
        for run in killed:
            first, second = (r for r in bank.runs(run.idea, run.split) if r.seed == run.seed)
            assert (first.state, first.attempt) == ("infrastructure", 0)
            assert (second.state != "infrastructure", second.attempt) == (True, 1)


def test_a_run_whose_workers_die_each_time_ends_as_infrastructure(tmp_path):
    process = search(tmp_path)
    wait_for(has_begun(tmp_path, 6))
    victim, dead, seen = None, 0, set()
    while process.poll() is None and dead < 3:
        for line in begun(tmp_path):
            new = line["pid"] not in seen and line["split"] == SEARCH and line["idea"]
            seen.add(line["pid"])
            if not new or line["idea"] != (victim or line["idea"]):
                continue
            try:
                os.kill(line["pid"], signal.SIGKILL)
                victim, dead = line["idea"], dead + 1
            except ProcessLookupError:  # it was faster: another then
                victim, dead = None, 0
        time.sleep(0.005)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    with Bank(tmp_path / "ideas.db") as bank:
        assert bank.idea(victim).state == "infrastructure"
        assert [run.attempt for run in bank.runs(victim)] == [0, 1, 2]


def test_the_spawner_may_be_killed_too(tmp_path):
    process = search(tmp_path)
    wait_for(has_begun(tmp_path, 4))
    (spawner,) = children(process.pid)
    os.kill(spawner, signal.SIGKILL)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert_complete(tmp_path)
    assert max(collections.Counter(line["run"] for line in begun(tmp_path)).values()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_the_runs_and_lose_nothing(tmp_path, number):
    process = search(tmp_path)
    wait_for(has_begun(tmp_path, 12))
    process.send_signal(number)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.endswith("resume with the same command\n")
    with Bank(tmp_path / "ideas.db") as bank:
        assert not bank.open_runs(RUNNING)
        assert bank.open_runs(QUEUED)
    finished(tmp_path)
    assert_complete(tmp_path)
    with Bank(tmp_path / "ideas.db") as bank:
        assert not bank.ideas("infrastructure")


def test_two_searches_do_not_share_a_folder(tmp_path):
    process = search(tmp_path)
    wait_for(has_begun(tmp_path, 1))
    second = search(tmp_path)
    said, _ = second.communicate(timeout=600)
    assert second.returncode == 2
    assert "a search is going on there" in said
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=600)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]
