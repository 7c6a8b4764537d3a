"""What a program tells, and what it finds around it."""

import signal

import pytest
from sandbox_programs import SMALL, python, run, said

from research_env.sandbox.protocol import Ended


def test_the_two_streams_come_back_apart(sandbox):
    executed = run(sandbox, "echo to stdout; echo to stderr >&2")
    assert said(executed) == "to stdout\n" and executed.stderr == b"to stderr\n"
    assert not executed.truncated and executed.reason == ""


def test_output_is_bytes(sandbox):
    executed = python(sandbox, "import sys; sys.stdout.buffer.write(bytes(range(256)) * 9)")
    assert executed.stdout == bytes(range(256)) * 9


def test_texts_and_names_are_utf_8(sandbox):
    text = "naïve Δx ≤ 0,5 — 学习 🎲"
    assert said(run(sandbox, f"echo '{text}' | tee 'ö {text[:5]}'; cat ö*")) == f"{text}\n" * 2


def test_of_long_output_head_and_tail_are_kept(sandbox):
    script = (
        "import sys\nfor i in range(200_000): print(i, file=sys.stdout if i % 2 else sys.stderr)"
    )
    executed = python(sandbox, script, output_kb=4)
    assert executed.truncated and executed.exit_code == 0
    for stream, first, last in (
        (executed.stdout, b"1\n3\n", b"9\n"),
        (executed.stderr, b"0\n", b"8\n"),
    ):
        assert stream.startswith(first) and stream.endswith(last) and b"left out" in stream
        assert 4096 <= len(stream) < 4096 + 100


def test_output_of_the_very_limit_is_whole(sandbox):
    executed = run(sandbox, "head -c 4096 /dev/zero", output_kb=4)
    assert executed.stdout == bytes(4096) and not executed.truncated


def test_endless_output_is_cut_off_by_the_clock_alone(sandbox):
    executed = run(sandbox, "yes", output_kb=4, wall_seconds=0.5)
    assert executed.ended is Ended.TIMED_OUT and len(executed.stdout) < 5000


@pytest.mark.parametrize("code", [0, 1, 42, 137, 255])
def test_an_exit_code_comes_back_as_it_is(sandbox, code):
    executed = run(sandbox, f"exit {code}")
    assert (executed.ended, executed.exit_code) == (Ended.EXITED, code)


def test_a_signal_is_a_negative_exit_code(sandbox):
    assert run(sandbox, "kill -9 $$").exit_code == -9
    assert run(sandbox, "kill -SEGV $$").exit_code == -11


def test_a_program_that_is_not_there_is_told(sandbox):
    executed = sandbox.exec(["no-such-program"], SMALL)
    assert (executed.ended, executed.exit_code) == (Ended.EXITED, 127)
    assert b"no-such-program" in executed.stderr
    assert run(sandbox, "echo > plain; ./plain").exit_code == 126


def test_arguments_arrive_as_they_are(sandbox):
    arguments = ["", "two words", "$HOME", "'", '"', "a\nb", "*", "é", "-c"]
    executed = python(sandbox, "import sys; print(sys.argv[1:])", *arguments)
    assert said(executed) == f"{arguments}\n"


def test_there_is_no_input(sandbox):
    assert said(run(sandbox, "cat; echo done")) == "done\n"


def test_signals_and_pipes_behave_as_in_any_program(sandbox):
    """Python ignores some signals, and a child would inherit that. (The C library keeps two for
    itself, which no program can set, and has children ignore them.)
    """
    ignored = int(said(run(sandbox, "grep SigIgn /proc/self/status")).split()[1], 16)
    assert not [number for number in signal.valid_signals() if ignored >> (number - 1) & 1]
    assert run(sandbox, "set -o pipefail; yes | head -n 1").exit_code == 128 + 13


def test_the_time_is_that_of_the_program(sandbox):
    assert 0.4 <= run(sandbox, "sleep 0.4").seconds < 30


def test_the_environment_is_the_one_given(sandbox, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "of the harness")
    given = {"SEED": "7", "TEXT": "a b\nc=ü"}
    names = "import os; print(sorted(os.environ)); print(os.environ['TEXT'])"
    listed, text = said(python(sandbox, names, environment=given)).split("\n", 1)
    assert text == "a b\nc=ü\n" and "SEED" in listed
    assert not {"SECRET_TOKEN", "USER", "PYTHONPATH"} & set(eval(listed))


def test_python_is_the_projects(sandbox):
    import numpy

    script = "import jax, numpy; print(numpy.__version__, jax.jit(jax.numpy.sum)(numpy.ones(9)))"
    executed = python(sandbox, script, wall_seconds=300, memory_mb=2000, processes=100)
    assert said(executed) == f"{numpy.__version__} 9.0\n"


def test_the_harness_is_no_module_of_it(sandbox):
    script = (
        "import importlib.util as u; print(u.find_spec('research_env'), u.find_spec('sbp_jax'))"
    )
    assert said(python(sandbox, script)) == "None None\n"


def test_it_runs_in_work(sandbox):
    assert said(run(sandbox, "pwd; touch /work/here; ls")) == "/work\nhere\n"


def test_there_are_as_many_cores_as_asked_for(sandbox):
    script = "import os; print(len(os.sched_getaffinity(0)))"
    assert said(python(sandbox, script)) == "1\n"


def test_it_cannot_take_more_cores(sandbox):
    script = "import os; os.sched_setaffinity(0, range(os.cpu_count()))"
    assert b"PermissionError" in python(sandbox, script).stderr


def test_no_open_file_is_inherited(sandbox):
    opened = said(
        python(sandbox, "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))")
    )
    assert opened == "[0, 1, 2, 3]\n"  # the last is that of the listing
