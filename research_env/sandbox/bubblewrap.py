"""Bubblewrap, the default on Linux: two shells of namespaces, the inner one anew for each program.

The outer shell lives as long as the sandbox. It holds the disk, a tmpfs, and the holder, which
starts an inner shell for each `exec` (own user, process, IPC, host and network namespaces, no
network interface but an unconnected loopback) and watches it. Where the harness is root, candidates
are nobody: a root without capabilities still owns much of /proc/sys, and no limit on the number of
processes holds for it. docs/sandboxes.md says what enforces what.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from research_env.sandbox import seccomp
from research_env.sandbox.held import MODULES, SOURCES, Held, Plan, base_python
from research_env.sandbox.paths import (
    OF_ETC,
    OF_SYS,
    OWN_FILES,
    SYSTEM,
    check_paths,
    covered,
    environment,
    python_folder,
    pythons,
)
from research_env.sandbox.protocol import Resource
from sbp_jax.errors import UserError

BOX = "/.sandbox"  # in the outer shell
DISK, GIVEN, LIBRARY = f"{BOX}/disk", f"{BOX}/given", f"{BOX}/library"
NOBODY = 65534


def bubblewrap(resource: Resource, read_only: Mapping[str, Path]) -> Held:
    check_paths(read_only)
    root = os.getuid() == 0
    user = NOBODY if root and _mapped(NOBODY) else None
    outer = [_bwrap(), *_namespaces("pid", "ipc", "uts"), "--cap-add", "ALL"]
    if not root:
        outer += ["--unshare-user", "--uid", "0", "--gid", "0"]
    outer += [*_system(SOURCES / "etc"), "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    outer += [*_folders(DISK), *_folders(GIVEN), *_folders(f"{LIBRARY}/research_env/sandbox")]
    outer += _folders(f"{BOX}/proc")
    for name in MODULES:
        outer += ["--ro-bind", f"{SOURCES / name}", f"{LIBRARY}/research_env/sandbox/{name}"]
    inner = ["bwrap", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"]
    inner += [*_namespaces("pid", "ipc", "uts", "net"), "--unshare-cgroup-try"]
    inner += ["--as-pid-1", "--new-session", "--die-with-parent", "--clearenv"]
    inner += ["--hostname", "sandbox", *_system(Path("/etc"))]
    inner += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]
    inner += ["--bind", f"{DISK}/tmp", "/tmp", "--bind", f"{DISK}/work", "/work"]
    inner += ["--bind", f"{DISK}/shm", "/dev/shm"]
    gpus, visible = _gpus(resource)
    outer += gpus
    inner += [*gpus, "--remount-ro", "/dev"]
    for i, (path, given) in enumerate(sorted(read_only.items())):
        outer += ["--ro-bind", str(given.resolve()), f"{GIVEN}/{i}"]
        inner += ["--ro-bind", f"{GIVEN}/{i}", path]
    for source, path in pythons():
        outer += [*_folders(str(PurePosixPath(path).parent)), "--ro-bind", source, path]
        inner += [*_folders(str(PurePosixPath(path).parent)), "--ro-bind", path, path]
    for path in covered():
        outer += ["--tmpfs", path, "--remount-ro", path]
        inner += ["--tmpfs", path, "--remount-ro", path]
    inside = f"{LIBRARY}/research_env/sandbox/inside.py"
    inner += ["--ro-bind", inside, "/run/inside.py", "--remount-ro", "/", "--chdir", "/work"]
    return Held(
        Plan(
            outer=outer,
            python=base_python(),
            library=LIBRARY,
            before=inner,
            inside=[base_python(), "-I", "-S", "-B", "/run/inside.py"],
            work=f"{DISK}/work",
            disk=DISK,
            proc=f"{BOX}/proc",
            user=user,
            given=[f"{GIVEN}/{i}" for i in range(len(read_only))],
            filter=seccomp.program(),
            environment=environment(python_folder(), resource.gpus) + visible,
        ),
        resource.cores,
    )


def check() -> None:
    """That it works on this machine; one trial."""
    bwrap = _bwrap()
    trial = [bwrap, "--unshare-user", "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/"]
    done = subprocess.run([*trial, "true"], capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UserError(
            f"bubblewrap cannot make namespaces here ({reason[0]}); allow them (on Ubuntu: sysctl "
            "kernel.apparmor_restrict_unprivileged_userns=0; in Docker: --privileged), or name "
            "another sandbox"
        )


def _bwrap() -> str:
    found = shutil.which("bwrap")
    if not found or sys.platform != "linux":
        raise UserError(
            "bubblewrap is not installed: apt-get install bubblewrap (Linux only), or name another "
            "sandbox"
        )
    return found


def _namespaces(*names: str) -> list[str]:
    return [f"--unshare-{name}" for name in names]


def _folders(path: str) -> list[str]:
    """Made with all above them, readable: bubblewrap's own would be its user's alone."""
    parts = [*reversed(PurePosixPath(path).parents), PurePosixPath(path)][1:]
    return [word for part in parts for word in ("--perms", "0755", "--dir", str(part))]


def _system(own: Path) -> list[str]:
    words: list[str] = []
    for path in SYSTEM:
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            words += ["--ro-bind", path, path]
    words += _folders("/etc") + _folders("/run")
    for name in OF_ETC:
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for path in OF_SYS:
        words += [*_folders(str(PurePosixPath(path).parent)), "--ro-bind-try", path, path]
    for name in OWN_FILES:
        words += ["--ro-bind", str(own / name), f"/etc/{name}"]
    return words


def _gpus(resource: Resource) -> tuple[list[str], tuple[tuple[str, str], ...]]:
    """NVIDIA's devices, and the variable that names them to CUDA."""
    if not resource.gpus:
        return [], (("CUDA_VISIBLE_DEVICES", ""),)
    here = [word for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word]
    ids = [str(i) for i in resource.gpu_ids] or here or [str(i) for i in range(resource.gpus)]
    ids = ids[: resource.gpus]
    devices = [f"/dev/nvidia{i}" for i in ids]
    if missing := [device for device in devices if not os.path.exists(device)]:
        raise UserError(f"{missing[0]}: no such GPU; ask for fewer than {resource.gpus}")
    shared = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps")
    words = [word for device in devices for word in ("--dev-bind", device, device)]
    for name in shared:
        words += ["--dev-bind-try", f"/dev/{name}", f"/dev/{name}"]
    for path in ("/sys/bus/pci", "/sys/devices", "/sys/module/nvidia"):
        words += [*_folders(str(PurePosixPath(path).parent)), "--ro-bind-try", path, path]
    # CUDA counts the devices that it can open, from 0
    return words, (("CUDA_VISIBLE_DEVICES", ",".join(str(i) for i in range(len(devices)))),)


def _mapped(user: int) -> bool:
    """Whether this root may become that user: not in every container."""
    with open("/proc/self/uid_map") as lines:
        ranges = [tuple(map(int, line.split())) for line in lines]
    return any(first <= user < first + count for first, _, count in ranges)
