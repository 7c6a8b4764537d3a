"""Files that are never half there: temporary name, sync, rename; the manifest comes last.

Paths are `epath.Path`, so that a folder may lie on a local disk or in object storage.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from sbp_jax.errors import UserError

MANIFEST = "manifest.json"
log = logging.getLogger(__name__)


def absolute(path: epath.PathLike) -> epath.Path:
    """An absolute path; an address in object storage already is one."""
    return epath.Path(path) if is_remote(path) else epath.Path(path).absolute()


def is_remote(path: epath.PathLike) -> bool:
    return "://" in str(path)


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Puts `data` at `path` in one piece: a reader sees the old file, the new one, never a part."""
    path = epath.Path(path)
    if is_remote(path):  # object stores replace a whole object at once
        path.write_bytes(data)
        return
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot write: {error.strerror}") from error


def write_json(path: epath.PathLike, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


@contextlib.contextmanager
def exclusive(path: epath.PathLike, refusal: str) -> Iterator[None]:
    """Holds a lock, or refuses when another process does. The lock ends with its process, so a
    file that a crash left behind locks nobody out. In object storage there are no locks.
    """
    if is_remote(path):
        yield
        return
    try:
        epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{path}: cannot write: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{refusal}; wait for it, or name another folder") from error
        except OSError as error:  # some network file systems
            log.warning("%s: cannot be locked (%s): let one process only write here", path, error)
        yield


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_manifest(folder: epath.PathLike, manifest: dict[str, Any]) -> None:
    """Marks a folder as finished; write it after everything else."""
    write_json(epath.Path(folder) / MANIFEST, manifest)


def read_manifest(folder: epath.PathLike) -> dict[str, Any]:
    path = epath.Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if not isinstance(manifest, dict):
            raise ValueError(f"{type(manifest).__name__} instead of an object")
        return manifest
    except FileNotFoundError:
        raise UserError(
            f"{folder}: no {MANIFEST}: it was not written to the end; make it again"
        ) from None
    except ValueError as error:
        raise UserError(
            f"{path}: damaged, or no manifest of sbp_jax's ({error}); restore it from a copy, or "
            "make the folder again"
        ) from error


def manifest_kind(folder: epath.PathLike) -> str:
    """What a folder says it holds; empty for one of the user's, whatever its manifest.json is."""
    try:
        manifest = json.loads((epath.Path(folder) / MANIFEST).read_text())
    except (FileNotFoundError, ValueError):
        return ""
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    return kind if kind in ("corpus", "tokens", "tokenizer") else ""


def has_manifest(folder: epath.PathLike) -> bool:
    return (epath.Path(folder) / MANIFEST).exists()
