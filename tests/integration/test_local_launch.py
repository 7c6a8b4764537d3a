"""launch/local.sh with plain programs: environment, output, exit codes, signals, what is left."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch" / "local.sh"

pytestmark = pytest.mark.multiprocess

SAVES_ON_REQUEST = """
import os, signal, time
def save(number, frame):  # perhaps within the print below, which must not be entered again
    os.write(1, f"asked by {signal.Signals(number).name}\\n".encode())
    time.sleep(0.5)
    os.write(1, b"saved\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, save)
print("ready", os.getpid(), flush=True)
time.sleep(60)
"""


def launch(count: int, *command: str) -> subprocess.CompletedProcess[str]:
    argv = [str(LAUNCH), str(count), "--", *command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=600)


def is_running(pid: int) -> bool:
    """A zombie counts as ended: whether it is collected is up to the machine's first process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 120
    while alive := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.05)


@pytest.fixture
def saving_pair() -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A launch of two processes that save when asked, both ready, in a process group of its own."""
    argv = [str(LAUNCH), "2", "--", sys.executable, "-c", SAVES_ON_REQUEST]
    with subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    ) as process:
        assert process.stdout is not None
        pids = [int(process.stdout.readline().rsplit(maxsplit=1)[1]) for _ in range(2)]
        yield process, pids
        process.kill()
        for pid in pids:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)


def test_each_process_learns_its_number_and_one_common_address():
    shown = 'echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS"'
    result = launch(3, "bash", "-c", shown)
    assert result.returncode == 0, result.stderr
    lines = sorted(result.stdout.splitlines())
    address = re.search(r"at (127\.0\.0\.1:\d+)$", lines[0])
    assert address
    assert lines == [f"[{i}] {i} of 3 at {address[1]}" for i in range(3)]


def test_arguments_reach_the_command_unchanged():
    result = launch(1, sys.executable, "-c", "import sys; print(sys.argv[1:])", "a b", "$HOME", "*")
    assert result.stdout == "[0] ['a b', '$HOME', '*']\n"


def test_errors_are_prefixed_too_and_the_last_unfinished_line_is_shown():
    result = launch(1, "bash", "-c", "echo oops >&2; printf 'no newline'")
    assert result.stdout.splitlines() == ["[0] oops", "[0] no newline"]


def test_when_one_fails_the_others_end_and_its_exit_code_is_returned(tmp_path):
    program = (
        f"echo $$ > {tmp_path}/$JAX_PROCESS_ID; sleep 60 & echo $! > {tmp_path}/c$JAX_PROCESS_ID;"
        f"if [ $JAX_PROCESS_ID = 1 ]; then"
        f"  until [ -s {tmp_path}/c0 -a -s {tmp_path}/c2 ]; do sleep 0.05; done; exit 7; fi;"
        f"wait"
    )
    start = time.monotonic()
    result = launch(3, "bash", "-c", program)
    assert result.returncode == 7
    assert "process 1 failed with exit code 7" in result.stderr
    assert time.monotonic() - start < 15
    pids = [int(p.read_text()) for p in tmp_path.iterdir()]
    assert len(pids) == 6
    wait_until_gone(pids)


def test_a_process_killed_by_a_signal_is_a_failure():
    # At once, so that the other is asked to end while it is being started.
    result = launch(2, "bash", "-c", "if [ $JAX_PROCESS_ID = 0 ]; then kill -9 $$; fi; sleep 60")
    assert result.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_once_and_all_are_waited_for(saving_pair, sent):
    process, pids = saving_pair
    process.send_signal(sent)
    time.sleep(0.2)
    process.send_signal(sent)
    output, _ = process.communicate(timeout=600)
    expected = [f"[{i}] {line}" for i in range(2) for line in (f"asked by {sent.name}", "saved")]
    assert sorted(output.splitlines()) == expected
    assert process.returncode == 0
    wait_until_gone(pids)


def test_ctrl_c_in_a_terminal_lets_all_processes_save(saving_pair):
    process, pids = saving_pair
    os.killpg(process.pid, signal.SIGINT)  # a terminal signals the whole foreground group
    output, _ = process.communicate(timeout=600)
    assert output.count("saved") == 2
    assert process.returncode == 0
    wait_until_gone(pids)


@pytest.mark.parametrize("arguments", [[], ["2"], ["0", "--", "true"], ["two", "--", "true"]])
def test_wrong_usage_is_one_line_and_exit_code_2(arguments):
    result = subprocess.run([str(LAUNCH), *arguments], capture_output=True, text=True, timeout=600)
    assert result.returncode == 2
    assert result.stderr == "usage: launch/local.sh N -- command...\n"
