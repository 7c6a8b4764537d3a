"""What every sandbox promises, case by case. A test file takes them all with `import *`, and says
in KIND which sandbox it means; conftest.py opens it.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import pytest

from research_env.sandbox.protocol import Ended, Limits, Unreadable

SMALL = Limits(wall_seconds=30, memory_mb=300, processes=40, file_mb=16, disk_mb=24, output_kb=64)


def run(sandbox, script, environment=None, **limits):
    """By a shell."""
    command = ["bash", "-c", script]
    return sandbox.exec(command, Limits(**{**vars(SMALL), **limits}), environment)


def python(sandbox, script, *arguments, environment=None, **limits):
    command = ["python", "-c", script, *arguments]
    return sandbox.exec(command, Limits(**{**vars(SMALL), **limits}), environment)


def said(executed):
    assert (executed.ended, executed.exit_code) == (Ended.EXITED, 0), executed
    return executed.stdout.decode()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def running(marker):
    """Processes of this machine with the marker in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and marker.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            pass
    return [pid for pid in found if pid != os.getpid()]


@pytest.fixture
def marker():
    """Named in command lines of processes that have to be gone."""
    return f"marked-{uuid.uuid4().hex}"


def daemon(marker):
    """In a session of its own, and with the output open."""
    return f"setsid bash -c 'exec -a {marker} sleep 999' &"


# -- what comes back ----------------------------------------------------------------------------


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
    """Python ignores some signals, and a child would inherit that."""
    ignored = said(run(sandbox, "grep SigIgn /proc/self/status")).split()[1]
    assert int(ignored, 16) == 0
    assert run(sandbox, "set -o pipefail; yes | head -n 1").exit_code == 128 + 13


def test_the_time_is_that_of_the_program(sandbox):
    assert 0.4 <= run(sandbox, "sleep 0.4").seconds < 2


# -- its surroundings ----------------------------------------------------------------------------


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


# -- files in and out ----------------------------------------------------------------------------


def test_a_file_is_the_same_bytes_after_a_round(sandbox, tmp_path):
    content = bytes(range(256)) * 5000
    source = write(tmp_path / "source", content)
    source.chmod(0o755)
    sandbox.copy_in(source, "a/b/copy")
    assert said(run(sandbox, "test -x a/b/copy && cp -p a/b/copy /tmp/x && mv /tmp/x back")) == ""
    sandbox.read_out("back", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o755


def test_a_folder_is_the_same_tree_after_a_round(sandbox, tmp_path):
    code = tmp_path / "code"
    for name in ("run.sh", "src/ü/deep.py", ".hidden/x"):
        write(code / name, name)
    (code / "empty").mkdir()
    (code / "link").symlink_to("src/ü")
    sandbox.copy_in(code, "/work")
    assert said(run(sandbox, "cat link/deep.py; echo new > empty/new")) == "src/ü/deep.py"
    assert sandbox.read_out("/work", tmp_path / "out") == ()
    write(code / "empty/new", "new\n")

    def tree(top):
        return {
            str(path.relative_to(top)): path.read_bytes() if path.is_file() else None
            for path in sorted(top.rglob("*"))
        }

    assert tree(tmp_path / "out") == tree(code)


def test_work_lasts_from_one_program_to_the_next(sandbox):
    assert said(run(sandbox, "echo one > file; mkdir -p folder; chmod +x file")) == ""
    assert said(run(sandbox, "cat file; ls -d folder; test -x file")) == "one\nfolder\n"


def test_copying_in_writes_through_no_link(sandbox, tmp_path):
    """That the candidate has put where the harness writes next."""
    assert said(run(sandbox, "echo mine > kept; ln -s kept target; ln kept hard")) == ""
    for name in ("target", "hard"):
        sandbox.copy_in(write(tmp_path / "source", "new"), name)
    assert said(run(sandbox, "cat kept target hard")) == "mine\nnewnew"


def test_copying_in_follows_no_linked_folder(sandbox, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    said(run(sandbox, f"mkdir real; ln -s real inner; ln -s {outside} outer"))
    with pytest.raises(OSError):
        sandbox.copy_in(write(tmp_path / "source", "new"), "inner/file")
    with contextlib.suppress(OSError):  # where the link is kept
        sandbox.copy_in(write(tmp_path / "source", "new"), "outer/file")
    assert not list(outside.iterdir()) and said(run(sandbox, "ls real")) == ""


@pytest.mark.parametrize("target", ["../x", "/etc/x", "a/../../x", "/work/../x", "/"])
def test_copying_in_is_to_work_only(sandbox, tmp_path, target):
    with pytest.raises(ValueError, match="work"):
        sandbox.copy_in(write(tmp_path / "source", "new"), target)


@pytest.mark.parametrize("path", ["/etc/passwd", "../etc/passwd", "/work/../etc/passwd", "nothing"])
def test_reading_out_is_from_work_only(sandbox, tmp_path, path):
    with pytest.raises(Unreadable):
        sandbox.read_out(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reading_out_follows_no_link_that_leads_out(sandbox, tmp_path):
    secret = write(tmp_path / "secret/file", "labels")
    said(
        run(
            sandbox, f"ln -s {secret} file; ln -s {secret.parent} folder; ln -s ../.. up; ln -s / r"
        )
    )
    for path in ("file", "folder/file", "folder", "up", "r/etc/passwd"):
        with pytest.raises(Unreadable):
            sandbox.read_out(path, tmp_path / "out")
    assert set(sandbox.read_out("/work", tmp_path / "all")) == {"file", "folder", "up", "r"}
    assert list((tmp_path / "all").iterdir()) == []


def test_links_that_stay_inside_come_out_as_links(sandbox, tmp_path):
    script = (
        "mkdir -p a/b; echo x > a/file; ln -s ../file a/b/back; ln -s a/b/../../.. out; ln -s a in"
    )
    said(run(sandbox, script))
    assert sandbox.read_out("/work", tmp_path / "out") == ("out",)
    assert (tmp_path / "out/a/b/back").read_text() == "x\n"
    assert os.readlink(tmp_path / "out/in") == "a"
    assert sandbox.read_out("a/b", tmp_path / "below") == ("back",)  # out of what is read


def test_hard_links_come_out_as_files_of_their_own(sandbox, tmp_path):
    said(run(sandbox, "echo one > a; ln a b"))
    sandbox.read_out("/work", tmp_path / "out")
    write(tmp_path / "out/a", "two")
    assert (tmp_path / "out/b").read_text() == "one\n"


def test_what_is_no_file_is_left_out(sandbox, tmp_path):
    script = "import os, socket; os.mkfifo('pipe'); socket.socket(socket.AF_UNIX).bind('s')"
    said(python(sandbox, f"{script}; open('f', 'w')"))
    assert set(sandbox.read_out("/work", tmp_path / "out")) == {"pipe", "s"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["f"]
    with pytest.raises(Unreadable):
        sandbox.read_out("pipe", tmp_path / "pipe")


def test_reading_out_has_a_limit_that_holes_count_for(sandbox, tmp_path):
    said(run(sandbox, "mkdir d; for i in 1 2 3; do truncate -s 1M d/$i; done"))
    sandbox.read_out("d", tmp_path / "out", most_mb=3)
    with pytest.raises(Unreadable, match="2 MB"):
        sandbox.read_out("d", tmp_path / "less", most_mb=2)


def test_a_folder_without_end_is_refused(sandbox, tmp_path):
    script = "import os\nfor _ in range(400): os.mkdir('d'); os.chdir('d')"
    said(python(sandbox, script))
    with pytest.raises(Unreadable, match="deep"):
        sandbox.read_out("/work", tmp_path / "out")


def test_files_without_permissions_are_read_all_the_same(sandbox, tmp_path):
    said(run(sandbox, "mkdir closed; echo x > closed/file; chmod 0 closed/file closed"))
    sandbox.read_out("closed", tmp_path / "out")
    assert (tmp_path / "out/file").read_text() == "x\n"


def test_what_is_given_is_at_its_path_and_read_only(open_sandbox, tmp_path):
    data = write(tmp_path / "data/inputs.txt", "inputs").parent
    single = write(tmp_path / "single", "one file")
    with open_sandbox({"/data": data, "/work/given": data, "/key": single}) as sandbox:
        script = "cat /data/inputs.txt /work/given/inputs.txt /key"
        assert said(run(sandbox, script)) == "inputsinputsone file"


def test_what_is_given_cannot_be_changed(open_sandbox, tmp_path):
    data = write(tmp_path / "data/inputs.txt", "inputs").parent
    data.chmod(0o777), (data / "inputs.txt").chmod(0o666)
    with open_sandbox({"/data": data}) as sandbox:
        attempts = (
            "echo x > inputs.txt",
            "touch new",
            "rm -f inputs.txt",
            "mv inputs.txt other",
            "chmod 600 inputs.txt",
            "ln inputs.txt $OLDPWD/linked && echo x > $OLDPWD/linked",
            "ln -s $PWD/inputs.txt $OLDPWD/soft && echo x > $OLDPWD/soft",
        )
        script = "\n".join(f"({attempt}) && echo '{attempt}'" for attempt in attempts)
        assert run(sandbox, f"cd $SANDBOX_ROOT/data\n{script}").stdout == b""
    assert [path.read_text() for path in data.iterdir()] == ["inputs"]


# -- what it cannot reach ------------------------------------------------------------------------


def test_it_writes_nowhere_but_where_it_may(sandbox):
    script = "for d in / /usr /usr/bin /etc /root /home /dev /proc /sys /var /opt /run $(dirname "
    script += "$(which python)); do touch $d/written-by-a-candidate 2> /dev/null && echo $d; done"
    assert run(sandbox, script).stdout == b""


def test_it_finds_no_files_of_the_harness(sandbox, tmp_path):
    secret = write(tmp_path / "secret", "labels")
    places = f"{Path(__file__).parent} /home /tmp /var /mnt /srv /root/.ssh"
    executed = run(sandbox, f"cat {secret}; for d in {places}; do ls -A $d; done 2> /dev/null")
    assert executed.stdout == b""


def test_it_sees_no_other_process(sandbox):
    listed = said(run(sandbox, "cat /proc/[0-9]*/comm | sort -u")).split()
    assert set(listed) <= {"bash", "cat", "sort", Path(os.path.realpath(sys.executable)).name}
    assert int(said(run(sandbox, "ls -d /proc/[0-9]* | wc -l"))) < 8


def test_it_reads_no_environment_of_another_process(sandbox, marker):
    said(run(sandbox, "true", {"HIDDEN": marker}))
    pattern = f"[{marker[0]}]{marker[1:]}"  # which is not what it looks for
    script = f"cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2> /dev/null | grep -ac {pattern}"
    other = subprocess.Popen(["sleep", "99"], env={"TOKEN": marker, "PATH": os.defpath})
    try:
        assert run(sandbox, script).stdout == b"0\n"
    finally:
        other.kill(), other.wait()


def test_its_signals_reach_nobody_else(sandbox):
    executed = run(sandbox, "kill -9 -1; echo alive")
    assert executed.exit_code in (0, -9)
    assert (
        said(run(sandbox, f"kill -9 {os.getpid()} {os.getppid()} 1 2> /dev/null; echo on"))
        == "on\n"
    )


def test_there_is_no_network(sandbox):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        assert b"Error" in python(sandbox, script).stderr
    script = (
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 53))"
    )
    assert b"unreachable" in python(sandbox, script).stderr
    assert said(run(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1")).split() == ["lo"]


def test_no_socket_of_this_machine_is_reached_by_name(sandbox):
    with socket.socket(socket.AF_UNIX) as server:
        name = f"\0{uuid.uuid4().hex}"
        server.bind(name)
        server.listen()
        script = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})"
        assert b"ConnectionRefused" in python(sandbox, script).stderr


def test_it_may_talk_to_itself(sandbox):
    script = """
import socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname())
print("connected")
"""
    assert said(python(sandbox, script)) == "connected\n"


def test_there_are_no_devices_but_harmless_ones(sandbox):
    listed = set(said(run(sandbox, "cd /dev; find . -type b -o -type c")).split())
    harmless = {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts/ptmx"}
    assert listed <= {f"./{name}" for name in harmless}
    assert run(sandbox, "mknod disk b 8 0").exit_code != 0


def test_it_has_no_privileges_and_gains_none(sandbox):
    capabilities = "grep CapEff /proc/self/status; unshare --user true && echo a namespace; true"
    assert said(run(sandbox, capabilities)).split() == ["CapEff:", "0000000000000000"]
    assert run(sandbox, "mkdir m; mount -t tmpfs none m").exit_code != 0
    assert run(sandbox, "su -c true || sudo -n true").exit_code != 0


def test_it_changes_no_setting_of_the_kernel(sandbox):
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    script = "for f in sys/kernel/core_pattern sys/vm/overcommit_memory sysrq-trigger; do "
    assert run(sandbox, f"{script} (echo 0 > /proc/$f) && echo $f; done").stdout == b""
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_its_temporary_folder_is_its_own(open_sandbox):
    with open_sandbox() as one, open_sandbox() as other:
        said(run(one, "echo x > /tmp/mine; echo x > /dev/shm/mine; echo x > mine"))
        assert said(run(other, "ls -A /tmp; ls -A /dev/shm; ls -A /work")) == ""


# -- limits --------------------------------------------------------------------------------------


def test_time_ends_it_and_all_that_it_started(sandbox, marker):
    script = f"trap '' TERM INT HUP; (exec -a {marker} sleep 999) & (exec -a {marker} sleep 999)"
    executed = run(sandbox, script, wall_seconds=0.5)
    assert executed.ended is Ended.TIMED_OUT and executed.exit_code < 0
    assert "0.5 s" in executed.reason and 0.5 <= executed.seconds < 2
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
    assert b"No space left" in python(sandbox, script).stderr


def test_what_was_copied_in_does_not_count_as_written(sandbox, tmp_path):
    sandbox.copy_in(write(tmp_path / "weights", bytes(40 << 20)), "weights")
    assert said(run(sandbox, "head -c 15M /dev/zero > new; ls")).split() == ["new", "weights"]


def test_it_serves_again_after_each_kind_of_end(sandbox):
    run(sandbox, "sleep 999", wall_seconds=0.3)
    python(sandbox, "x = []\nwhile True: x.append(bytearray(8 << 20))")
    run(sandbox, "kill -9 $$")
    assert said(run(sandbox, "echo fine")) == "fine\n"


# -- from outside ----------------------------------------------------------------------------------


def test_it_is_killed_from_another_thread(sandbox, marker):
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
