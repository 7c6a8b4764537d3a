"""How much a program may take, and how it is ended."""

import tempfile
import threading
import time

import pytest
from sandbox_programs import daemon, python, run, running, said, write

from research_env.sandbox.protocol import Ended


def test_time_ends_it_and_all_that_it_started(sandbox, marker):
    script = f"trap '' TERM INT HUP; (exec -a {marker} sleep 999) & (exec -a {marker} sleep 999)"
    executed = run(sandbox, script, wall_seconds=0.5)
    assert executed.ended is Ended.TIMED_OUT and executed.exit_code < 0
    assert "0.5 s" in executed.reason and 0.5 <= executed.seconds < 30
    assert not running(marker)


def test_what_was_said_before_time_was_up_is_kept(sandbox):
    executed = run(sandbox, "echo said; sleep 999", wall_seconds=0.5)
    assert executed.stdout == b"said\n" and executed.ended is Ended.TIMED_OUT


def test_no_daemon_outlives_it(sandbox, marker):
    script = f"""
import os, sys
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in range(3): os.close(fd)
            os.execvp("sleep", ["{marker}", "999"])
        os._exit(0)
print("left")
"""
    assert said(python(sandbox, script)) == "left\n"
    assert not running(marker)


def test_a_daemon_that_holds_its_output_holds_nobody_up(sandbox, marker):
    started = time.monotonic()
    executed = run(sandbox, f"{daemon(marker)} echo done", wall_seconds=600)
    assert said(executed) == "done\n" and time.monotonic() - started < 60
    assert not running(marker)


def test_processor_time_is_limited(sandbox):
    executed = run(sandbox, "while :; do :; done", cpu_seconds=0.5)
    assert executed.ended is Ended.TIMED_OUT and "CPU" in executed.reason


def test_processor_time_is_that_of_all_processes_together(sandbox):
    """Each far below the limit, and most of them gone when it is reached, with nobody waiting."""
    script = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        while time.process_time() < 0.1: pass
        os._exit(0)
    time.sleep(0.12)
"""
    executed = python(sandbox, script, cpu_seconds=0.6)
    assert executed.ended is Ended.TIMED_OUT and "CPU" in executed.reason


def test_memory_is_limited(sandbox):
    executed = python(sandbox, "x = []\nwhile True: x.append(bytearray(8 << 20))")
    assert executed.ended is Ended.OUT_OF_MEMORY and "300" in executed.reason


def test_memory_is_that_of_all_processes_together(sandbox, marker):
    script = f"""
import os, time
for _ in range(9):
    if os.fork() == 0:
        x = bytearray(os.urandom(1 << 20)) * 60
        time.sleep(999)
time.sleep(999)  # {marker}
"""
    assert python(sandbox, script).ended is Ended.OUT_OF_MEMORY
    assert not running(marker)


def test_memory_that_processes_share_counts_once(sandbox):
    script = """
import os, time
x = bytearray(os.urandom(1 << 20)) * 120
for _ in range(4):
    if os.fork() == 0: break
time.sleep(0.3)
"""
    assert python(sandbox, script).ended is Ended.EXITED


def test_memory_that_no_process_shows_is_refused(sandbox):
    script = """
import ctypes, os
shmget = ctypes.CDLL(None).shmget
for make in (lambda: os.memfd_create("x"), lambda: os.close(shmget(0, 1 << 20, 0o1600))):
    try: make()
    except OSError as error: print(error.errno)
"""
    assert said(python(sandbox, script)).split() == ["38", "9"]


def test_a_fork_bomb_ends_with_its_sandbox(sandbox, marker):
    executed = run(sandbox, f": {marker}; f() {{ f | f & }}; f; sleep 1", wall_seconds=3)
    assert executed.ended in (Ended.EXITED, Ended.TIMED_OUT)
    assert not running(marker)
    assert said(run(sandbox, "echo still here")) == "still here\n"


def test_processes_and_threads_are_limited(sandbox):
    script = """
import threading, time
threads = [threading.Thread(target=time.sleep, args=(2,), daemon=True) for _ in range(100)]
for thread in threads: thread.start()
time.sleep(0.5)
"""
    executed = python(sandbox, script)
    assert executed.ended is Ended.EXITED and executed.exit_code != 0
    assert said(python(sandbox, script.replace("100", "20"))) == ""


def test_a_file_is_limited(sandbox):
    executed = run(sandbox, "head -c 17M /dev/zero > large; stat -c %s large")
    assert executed.stdout == b"16777216\n"


def test_the_disk_is_limited(sandbox):
    executed = run(sandbox, "for i in 1 2 3; do head -c 9M /dev/zero > $i; done; cat ? | wc -c")
    assert b"No space left" in executed.stderr
    assert int(executed.stdout) <= 25 << 20
    assert said(run(sandbox, "rm -f *; echo x > y; cat y")) == "x\n"


def test_the_temporary_folder_is_part_of_the_disk(sandbox):
    executed = run(sandbox, "for d in . /tmp; do head -c 13M /dev/zero > $d/x; done")
    assert b"No space left" in executed.stderr


def test_shared_memory_is_limited_as_disk(sandbox):
    executed = run(sandbox, "for i in 1 2 3; do head -c 12M /dev/zero > /dev/shm/$i; done")
    assert b"No space left" in executed.stderr


def test_the_number_of_files_is_limited(sandbox):
    script = "import os\nfor i in range(20_000): os.close(os.open(str(i), os.O_CREAT))"
    assert b"No space left" in python(sandbox, script, disk_mb=1).stderr


def test_what_was_copied_in_does_not_count_as_written(sandbox, tmp_path):
    sandbox.copy_in(write(tmp_path / "weights", bytes(40 << 20)), "weights")
    assert said(run(sandbox, "head -c 15M /dev/zero > new; ls")).split() == ["new", "weights"]


def test_it_serves_again_after_each_kind_of_end(sandbox):
    run(sandbox, "sleep 999", wall_seconds=0.3)
    python(sandbox, "x = []\nwhile True: x.append(bytearray(8 << 20))")
    run(sandbox, "kill -9 $$")
    assert said(run(sandbox, "echo fine")) == "fine\n"


def test_it_is_killed_from_another_thread(sandbox, marker, tmp_path):
    said(run(sandbox, "echo kept > file"))

    def kill():
        while not running(marker):
            time.sleep(0.02)
        sandbox.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    executed = run(sandbox, f"{daemon(marker)} sleep 999", wall_seconds=100)
    killer.join()
    assert executed.ended is Ended.KILLED and executed.seconds < 60
    assert not running(marker)
    sandbox.read_out("file", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept\n"


def test_once_killed_it_runs_nothing_more(sandbox, tmp_path):
    said(run(sandbox, "echo kept > file"))
    sandbox.kill()
    assert run(sandbox, "echo more > file").ended is Ended.KILLED
    sandbox.read_out("file", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept\n"


def test_several_run_side_by_side(open_sandbox):
    def one(i):
        with open_sandbox() as sandbox:
            results[i] = said(run(sandbox, f"echo {i} > file; sleep 0.2; cat file"))

    results = {}
    threads = [threading.Thread(target=one, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: f"{i}\n" for i in range(4)}


def test_a_path_of_the_system_cannot_be_given(open_sandbox, tmp_path):
    for path in ("/usr", "/etc/passwd", "/work", "relative", "/data/../etc", "/"):
        with pytest.raises(ValueError, match="cannot be given"), open_sandbox({path: tmp_path}):
            pass
    with pytest.raises(ValueError, match="no such"), open_sandbox({"/data": tmp_path / "none"}):
        pass


def test_when_it_closes_nothing_is_left(open_sandbox, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_sandbox() as sandbox:
        said(run(sandbox, "mkdir closed; echo x > closed/y; chmod 0 closed"))
    assert not list(tmp_path.iterdir())
