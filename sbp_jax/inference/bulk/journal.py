"""Records that survive any end of their writer: one file, only ever appended to.

A record is JSON in a frame, its length and checksum before it, and goes to the system in one write:
a killed process loses none, a crashed machine those of the last seconds. Opening cuts off what the
last write may have left half there; the zeros that some file systems leave are no record either. A
record that a disk has damaged is passed over when a whole one follows it: what was paid for counts.
"""

import contextlib
import json
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sbp_jax.errors import UserError

_HEADER = struct.Struct("<II")  # length and CRC-32 of the payload
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().raw_decode  # a third faster than `json.loads`
log = logging.getLogger(__name__)


class Journal:
    """Open for appending; one process at a time, which the caller's lock sees to."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            size = os.fstat(self._file).st_size
            frames = list(_frames(path.read_bytes())) if size else []
            self._size = frames[-1].end if frames else 0
            if damaged := sum(frame.payload is None for frame in frames):
                log.warning("%s: passed over %d records that are damaged", path, damaged)
            if self._size < size:
                log.warning(
                    "%s: dropped its last %d bytes, of a record cut short", path, size - self._size
                )
                os.ftruncate(self._file, self._size)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def append(self, record: Any) -> None:
        # Half of a surrogate pair, which an API's JSON can spell, is no text: "?" from here on.
        payload = _encode(record).encode("utf-8", "replace")
        frame = _HEADER.pack(len(payload), zlib.crc32(payload)) + payload
        try:
            written = os.write(self._file, frame)
            while written < len(frame):  # a disk that fills up takes a part before it refuses
                written += os.write(self._file, frame[written:])
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise _cannot_write(self.path, error) from error
        self._size += len(frame)

    def sync(self) -> None:
        try:
            if self._file >= 0:
                os.fsync(self._file)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def close(self) -> None:
        """Without a sync; a second time is harmless."""
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)


def read(path: Path) -> Iterator[Any]:
    """The whole records of a journal, which another process may be writing."""
    for frame in _frames(path.read_bytes()):
        if frame.payload is not None:
            yield _decode(frame.payload.decode())[0]


class _Frame(NamedTuple):
    end: int  # its place in the file
    payload: bytes | None  # None: damaged


def _frames(data: bytes) -> Iterator[_Frame]:
    """Up to the last whole one."""
    frame = _frame(data, 0)
    while frame:
        following = _frame(data, frame.end)
        if frame.payload is None and not (following and following.payload):
            return
        yield frame
        frame = following


def _frame(data: bytes, start: int) -> _Frame | None:
    """The one that begins there, if its header may be one."""
    start += _HEADER.size
    if start > len(data):
        return None
    length, checksum = _HEADER.unpack_from(data, start - _HEADER.size)
    payload = data[start : start + length]
    if not length or len(payload) < length:
        return None
    return _Frame(start + length, payload if zlib.crc32(payload) == checksum else None)


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot write: {error.strerror}; what was answered before is safe: resume with "
        "the same command"
    )
