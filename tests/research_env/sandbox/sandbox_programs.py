"""Programs for sandboxes, and how to say what came of them."""

import contextlib
import os
import time
import uuid
from pathlib import Path

import pytest

from research_env.sandbox.protocol import Ended, Limits

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


def sleeping(marker):
    """Those of them that sleep, not who has the marker among its arguments for another reason."""
    found = []
    for pid in running(marker):
        with contextlib.suppress(OSError):
            if "sleep" in Path(f"/proc/{pid}/comm").read_text():
                found.append(pid)
    return found


def wait_until(condition):
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def marker():
    """Named in command lines of processes that have to be gone."""
    return f"marked-{uuid.uuid4().hex}"


def daemon(marker):
    """In a session of its own, and with the output open."""
    return f"setsid bash -c 'exec -a {marker} sleep 999' &"
