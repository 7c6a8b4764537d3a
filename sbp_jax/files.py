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
from typing import IO, Any

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


def read_record(path: epath.PathLike, *fields: str) -> dict[str, Any]:
    """What `write_json` left of finished work, which has these fields."""
    try:
        record = json.loads(epath.Path(path).read_text())
        if missing := set(fields) - set(record):
            raise ValueError(f"no {min(missing)}")
        return record
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({error}); delete it and run the same command again"
        ) from error


@contextlib.contextmanager
def exclusive(path: epath.PathLike, refusal: str) -> Iterator[None]:
    """Holds a lock, or refuses when another process does. In object storage there are no locks."""
    if is_remote(path):
        yield
        return
    lock = try_lock(path)
    if lock is None:
        raise UserError(f"{refusal}; wait for it, or name another folder")
    with lock:
        yield


@contextlib.contextmanager
def locked(path: epath.PathLike) -> Iterator[None]:
    """Waits for a lock that nobody holds for ever."""
    with _open_lock(path) as file:
        flock(file, fcntl.LOCK_EX)
        yield


def try_lock(path: epath.PathLike, mode: int = fcntl.LOCK_EX) -> IO[bytes] | None:
    """An open file that holds the lock until it is closed or its process ends, so one that a crash
    left behind locks nobody out. None if another process has it.
    """
    file = _open_lock(path)
    try:
        flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def flock(file: IO[bytes], mode: int) -> None:
    """Without it where there is none."""
    try:
        fcntl.flock(file, mode)
    except BlockingIOError:
        raise
    except OSError as error:  # some network file systems
        log.warning(
            "%s: cannot be locked (%s): let one process only work here", file.name, error.strerror
        )


def _open_lock(path: epath.PathLike) -> IO[bytes]:
    try:
        epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
        return open(path, "ab")
    except OSError as error:
        raise UserError(f"{path}: cannot write: {error.strerror}") from error


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
