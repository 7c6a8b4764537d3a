"""Docker: each program in a container of its own, in which the holder is process 1.

The image is empty: the system and Python are this machine's, read-only, so that a candidate finds
what it finds in bubblewrap, and nothing is pulled. So the daemon has to be this machine's own.
"""

import io
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from research_env.sandbox import seccomp
from research_env.sandbox.held import MODULES, SOURCES, Held, Plan, base_python, holder
from research_env.sandbox.paths import (
    OF_ETC,
    OWN_FILES,
    SYSTEM,
    covered,
    environment,
    python_folder,
    pythons,
)
from research_env.sandbox.protocol import Ended, Limits, Resource, Sandbox
from research_env.sandbox.staged import Left, Program, Staged, ended, run_once
from sbp_jax.errors import UserError

IMAGE = "research-env-empty:2"
LIBRARY, SOCKET = "/.sandbox/library", "/.sandbox/socket"
NOBODY = 65534
START = 60.0  # seconds until a container must have started
OVERHEAD_MB = 64  # the holder's
# Of root, for the holder: to become the candidate's user, to kill it and to measure it.
CAPABILITIES = ("SETUID", "SETGID", "KILL", "SYS_PTRACE")


def check() -> None:
    if not shutil.which("docker"):
        raise UserError(
            "Docker is not installed: apt-get install docker.io, or name another sandbox"
        )
    done = subprocess.run(["docker", "info"], capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"Docker's daemon does not answer ({_last_line(done.stderr)}): start it, or name "
            "another sandbox"
        )
    image = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True)
    if image.returncode:
        made = ["docker", "import", "-", IMAGE]
        subprocess.run(made, input=empty_image(), check=True, capture_output=True)


def empty_image() -> bytes:
    """Folders, and the links of this machine's own top folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("etc", "run", "tmp", "work", "proc", "dev", "sys", ".sandbox"):
            folder = tarfile.TarInfo(name)
            # A tmpfs takes the mode of the folder below it.
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(folder)
        for path in SYSTEM:
            if os.path.islink(path):
                link = tarfile.TarInfo(path.lstrip("/"))
                link.type, link.linkname = tarfile.SYMTYPE, os.readlink(path)
                tar.addfile(link)
    return buffer.getvalue()


class Docker(Staged):
    def _run(self, program: Program) -> Left:
        used = sum(file.lstat().st_size for file in self.work.rglob("*"))
        limits = program.limits

        def open_container(resource: Resource, read_only: Mapping[str, Path]) -> Container:
            return Container(resource, read_only, limits, (used >> 20) + 1)

        def end() -> None:
            for one in containers:
                one.kill()

        def opened(sandbox: Sandbox) -> None:
            containers.append(sandbox)
            if self._killed:
                end()

        containers: list[Sandbox] = []
        with self.when_killed(end):
            try:
                return run_once(
                    open_container,
                    self.resource,
                    self.read_only,
                    program,
                    self.work,
                    self.out,
                    opened,
                )
            except OSError as error:
                return Left(ended(Ended.INFRASTRUCTURE, f"Docker: {error}"))


class Container(Held):
    def __init__(
        self, resource: Resource, read_only: Mapping[str, Path], limits: Limits, used_mb: int
    ) -> None:
        self._resource, self._read_only = resource, read_only
        self._limits, self._used_mb = limits, used_mb
        super().__init__(
            Plan(
                outer=(),
                python=base_python(),
                library=LIBRARY,
                before=(),
                inside=[
                    base_python(),
                    "-I",
                    "-S",
                    "-B",
                    f"{LIBRARY}/research_env/sandbox/inside.py",
                ],
                work="/work",
                user=candidate(),
                filter=seccomp.program(),
                environment=environment(python_folder(), resource.gpus),
            ),
            resource.cores,
        )

    def _begin(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        self._name = f"sandbox-{uuid.uuid4().hex}"
        self._meeting = Path(tempfile.mkdtemp(prefix="sandbox-"))
        harness = os.pidfd_open(os.getpid())
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(self._meeting / "holder"))
            server.listen()
            server.settimeout(0.2)
            process = subprocess.Popen(
                [
                    *container(
                        self._name,
                        self._meeting,
                        self._resource,
                        self._read_only,
                        self._limits,
                        self._used_mb,
                    ),
                    *holder(self._plan, repr(f"{SOCKET}/holder")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            connection = None
            for _ in range(int(START / 0.2)):
                try:
                    connection = server.accept()[0]
                    break
                except TimeoutError:
                    if process.poll() is not None:
                        break
        try:
            if connection is None:
                assert process.stderr
                words = process.stderr.read().decode(errors="replace") if process.poll() else ""
                raise OSError(f"no container: {_last_line(words)}")
            connection.settimeout(None)
            socket.send_fds(connection, [b"."], [harness])
        finally:
            os.close(harness)
        return process, connection

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        subprocess.run(["docker", "rm", "--force", self._name], capture_output=True)
        shutil.rmtree(self._meeting, ignore_errors=True)


def candidate() -> int:
    """The user whom the harness can read the files of, but not root."""
    return os.getuid() or NOBODY


def container(
    name: str,
    meeting: Path,
    resource: Resource,
    read_only: Mapping[str, Path],
    limits: Limits,
    used_mb: int,
) -> list[str]:
    """`docker run`, but for Python's command line."""
    user, disk = candidate(), limits.disk_mb
    files = f"nr_inodes={4096 + (disk << 7)}"
    memory = limits.memory_mb + 3 * disk + used_mb + OVERHEAD_MB  # the three disks count as memory
    command = ["docker", "run", "--rm", f"--name={name}", "--network=none", "--read-only"]
    command += ["--cap-drop=ALL", *(f"--cap-add={one}" for one in CAPABILITIES)]
    command += ["--security-opt=no-new-privileges", "--log-driver=none", "--hostname=sandbox"]
    command += [f"--memory={memory}m", f"--memory-swap={memory}m", f"--cpus={resource.cores}"]
    command += [f"--pids-limit={limits.processes + 4}", f"--shm-size={disk}m", "--workdir=/work"]
    command += [f"--tmpfs=/work:exec,size={used_mb + disk}m,mode=755,uid={user},gid={user},{files}"]
    command += [f"--tmpfs=/tmp:exec,size={disk}m,mode=1777,{files}"]
    if resource.gpus:
        ids = ",".join(map(str, resource.gpu_ids[: resource.gpus]))
        command += [f'--gpus="device={ids}"' if ids else f"--gpus={resource.gpus}"]
    given = [(path, path) for path in SYSTEM if os.path.isdir(path) and not os.path.islink(path)]
    given += [(f"/etc/{one}", f"/etc/{one}") for one in OF_ETC if os.path.exists(f"/etc/{one}")]
    given += [(str(SOURCES / "etc" / one), f"/etc/{one}") for one in OWN_FILES if one != "hosts"]
    given += [*pythons(), (str(meeting), SOCKET)]
    given += [(str(SOURCES / one), f"{LIBRARY}/research_env/sandbox/{one}") for one in MODULES]
    given += [(str(source.resolve()), path) for path, source in sorted(read_only.items())]
    for source, path in given:
        command += ["--mount", f"type=bind,source={source},target={path},readonly"]
    command += [f"--tmpfs={path}:ro" for path in covered()]
    return [*command, IMAGE]


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "no word why")
