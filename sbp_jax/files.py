"""Files that are never half there: temporary name, sync, rename; the manifest comes last.

Paths are `epath.Path`, so that a folder may lie on a local disk or in object storage.
"""

import contextlib
import hashlib
import json
import os
import uuid
from typing import Any

from etils import epath

from sbp_jax.errors import UserError

MANIFEST = "manifest.json"


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Puts `data` at `path` in one piece: a reader sees the old file, the new one, never a part."""
    path = epath.Path(path)
    if "://" in str(path):  # object stores replace a whole object at once
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


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_manifest(folder: epath.PathLike, manifest: dict[str, Any]) -> None:
    """Marks a folder as finished; write it after everything else."""
    write_json(epath.Path(folder) / MANIFEST, manifest)


def read_manifest(folder: epath.PathLike) -> dict[str, Any]:
    path = epath.Path(folder) / MANIFEST
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{folder}: no {MANIFEST}: it was not written to the end; make it again"
        ) from None
    except ValueError as error:
        raise UserError(
            f"{path}: not valid JSON ({error}); delete the folder and make it again"
        ) from error


def has_manifest(folder: epath.PathLike) -> bool:
    return (epath.Path(folder) / MANIFEST).exists()
