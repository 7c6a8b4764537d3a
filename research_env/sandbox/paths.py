"""What every sandbox calls things: where Python is, what may be given where, which variables."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from sbp_jax.errors import UserError

VENV = "/venv"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
OF_ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types")
# Without the first, jaxlib does not even load: it counts processors there.
OF_SYS = (
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/kernel/mm/transparent_hugepage",
)
PACKAGE = Path(__file__).absolute().parents[1]  # research_env
OWN_FILES = ("passwd", "group", "hosts", "nsswitch.conf")  # etc/ beside this file
RESERVED = ("/usr", "/bin", "/sbin", "/lib", "/etc", "/proc", "/dev", "/sys", "/tmp", "/run", VENV)


def environment(python: str, gpus: int) -> tuple[tuple[str, str], ...]:
    """Of a candidate, before what it is given; `python` is the folder of its interpreter."""
    return (
        ("PATH", f"{python}:/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/tmp"),
        ("TMPDIR", "/tmp"),
        ("LANG", "C.UTF-8"),
        # Where libtpu is installed, JAX would ask Google's network for TPUs for minutes.
        ("JAX_PLATFORMS", "cuda,cpu" if gpus else "cpu"),
        ("SANDBOX_ROOT", ""),  # before /work and /data, in a sandbox that has them elsewhere
    )


def check_paths(read_only: Mapping[str, Path]) -> None:
    for path, source in read_only.items():
        parts = PurePosixPath(path)
        clean = str(parts) == path and parts.is_absolute() and ".." not in parts.parts
        reserved = [r for r in RESERVED if parts.is_relative_to(r)]
        if not clean or reserved or path in ("/", "/work"):
            raise UserError(f"{path}: cannot be given read-only; name a path such as /data")
        if not source.exists():
            raise UserError(f"{source}: no such file or folder, to be {path} in the sandbox")


def pythons() -> list[tuple[str, str]]:
    """The interpreter at its own path, to which links lead, and its virtual environment."""
    base = {sys.base_prefix, os.path.realpath(sys.base_prefix)}
    found = [(path, path) for path in sorted(base) if not path.startswith("/usr")]
    if sys.prefix != sys.base_prefix:
        found.append((sys.prefix, VENV))
    return found


def covered() -> list[str]:
    """Where our own package would be seen, if it is installed where Python's are: with it would be
    the evaluators and the labels of the environments that ship.
    """
    places = [*pythons(), *((path, path) for path in SYSTEM)]
    inside = [
        str(PurePosixPath(path) / package.relative_to(source))
        for package in {PACKAGE, PACKAGE.resolve()}
        for source, path in places
        if package.is_relative_to(source)
    ]
    return sorted(set(inside))


def python_folder() -> str:
    return f"{VENV if sys.prefix != sys.base_prefix else sys.prefix}/bin"
