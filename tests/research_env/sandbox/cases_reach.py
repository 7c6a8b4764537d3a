"""What a program cannot reach."""

import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

from sandbox_programs import python, run, said, write


def test_it_writes_nowhere_but_where_it_may(sandbox):
    script = "for d in / /usr /usr/bin /etc /root /home /dev /proc /sys /var /opt /run $(dirname "
    script += "$(which python)); do touch $d/written-by-a-candidate 2> /dev/null && echo $d; done"
    assert run(sandbox, script).stdout == b""


def test_it_finds_no_files_of_the_harness(sandbox, tmp_path):
    secret = write(tmp_path / "secret", "labels")
    places = f"{Path(__file__).parent} /home /tmp /var /mnt /srv {Path.home() / '.ssh'}"
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
