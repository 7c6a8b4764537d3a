"""Folders of safetensors files, read and written one tensor at a time.

The format is a length, a JSON header and the bytes. Written here and not by its library, because
that wants all the tensors of a file in memory; a tensor has its place before any is there, so they
may come in any order.
"""

import datetime
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from sbp_jax.errors import UserError

PROGRESS_S = 5.0
SHARD_BYTES = 5 * 10**9  # of one file, as the Hugging Face hub recommends
DTYPES: dict[str, Any] = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
INDEX = "model.safetensors.index.json"
log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a tensor's bytes are."""

    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str


class Reader:
    """The tensors of a Hugging Face folder, checked to be all there before any is read."""

    def __init__(self, folder: Path):
        self.places: dict[str, Place] = {}
        for file in _files(folder):
            self.places |= _header(file)
        self._progress = _Progress(f"reading {folder}", sum(map(_size, self.places.values())))

    def read(self, name: str) -> np.ndarray:
        place = self.places[name]
        values = np.fromfile(
            place.file, DTYPES[place.dtype], math.prod(place.shape), offset=place.offset
        )
        self._progress.add(_size(place))
        return values.reshape(place.shape)


class Writer:
    """Files of at most `SHARD_BYTES` with room for every tensor; `write` fills it."""

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str):
        self.dtype = DTYPES[{"float32": "F32", "bfloat16": "BF16"}[dtype]]
        self._files: list[BinaryIO] = []
        self._places: dict[str, tuple[BinaryIO, int, int]] = {}
        shards: list[dict[str, int]] = [{}]
        for name, shape in shapes.items():
            size = math.prod(shape) * self.dtype.itemsize
            if shards[-1] and sum(shards[-1].values()) + size > SHARD_BYTES:
                shards.append({})
            shards[-1][name] = size
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        if len(shards) == 1:
            names = ["model.safetensors"]
        for file_name, sizes in zip(names, shards, strict=True):
            self._make(folder / file_name, sizes, shapes)
        total = sum(sum(sizes.values()) for sizes in shards)
        self._progress = _Progress(f"writing {len(shards)} file(s)", total)
        if len(shards) > 1:
            index = {
                "metadata": {"total_size": total},
                "weight_map": {
                    n: file for file, sizes in zip(names, shards, strict=True) for n in sizes
                },
            }
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def _make(
        self, path: Path, sizes: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        kind = next(name for name, dtype in DTYPES.items() if dtype == self.dtype)
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, size in sizes.items():
            offsets = [end, end + size]
            header[name] = {"dtype": kind, "shape": shapes[name], "data_offsets": offsets}
            end += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # so that the data are aligned
        file = path.open("wb")
        self._files.append(file)
        file.write(len(text).to_bytes(8, "little") + text)
        for name, size in sizes.items():
            start = 8 + len(text) + header[name]["data_offsets"][0]
            self._places[name] = file, start, size

    def write(self, name: str, value: np.ndarray) -> None:
        file, start, size = self._places.pop(name)
        data = np.ascontiguousarray(value, self.dtype)  # its bytes, not those of what it views
        assert data.nbytes == size, name
        file.seek(start)
        file.write(data.view(np.uint8).data)
        self._progress.add(size)

    def close(self) -> None:
        """On disk, all of it."""
        assert not self._places, f"never written: {list(self._places)}"
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
            file.close()


class _Progress:
    """A line every few seconds, of what takes longer than that."""

    def __init__(self, what: str, total: int):
        self._what, self._total, self._done = what, total, 0
        self._begin = self._said = time.monotonic()

    def add(self, size: int) -> None:
        self._done += size
        now = time.monotonic()
        if now - self._said >= PROGRESS_S:
            self._said = now
            seconds = (now - self._begin) * (self._total - self._done) / self._done
            log.info(
                "%s: %.1f of %.1f GB, %s left",
                self._what,
                self._done / 1e9,
                self._total / 1e9,
                datetime.timedelta(seconds=round(seconds)),
            )


def _size(place: Place) -> int:
    return math.prod(place.shape) * DTYPES[place.dtype].itemsize


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        try:
            names = json.loads((folder / INDEX).read_text())["weight_map"].values()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{folder / INDEX}: not an index of tensors ({error!r}); fetch the file again"
            ) from error
        files = [folder / name for name in sorted(set(names))]
    else:
        files = sorted(folder.glob("*.safetensors"))
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise UserError(f"{folder}: {missing[0]} is missing, which its index names; fetch it again")
    if not files and (old := sorted([*folder.glob("*.bin"), *folder.glob("*.pth")])):
        raise UserError(
            f"{old[0]}: pickled weights can run code when they are read, so they are not; convert "
            "them to safetensors first (save_pretrained in transformers does)"
        )
    if not files:
        raise UserError(f"{folder}: no .safetensors file there; is it a Hugging Face model?")
    return files


def _header(file: Path) -> dict[str, Place]:
    total = file.stat().st_size
    with file.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        text = f.read(length) if length <= total - 8 else b""
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if 8 + length + end != total:
            raise ValueError(f"{total} bytes where its header asks for {8 + length + end}")
        places = {}
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            shape, dtype = tuple(entry["shape"]), entry["dtype"]
            places[name] = Place(file, 8 + length + start, shape, dtype)
            if dtype not in DTYPES:
                continue
            if stop - start != math.prod(shape) * DTYPES[dtype].itemsize:
                raise ValueError(f"tensor {name!r} has {stop - start} bytes for shape {shape}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: truncated or damaged ({error or 'no header'}); fetch the file again"
        ) from error
    for name, place in places.items():
        if place.dtype not in DTYPES:
            raise UserError(
                f"{file}: tensor {name!r} is {place.dtype}; only {', '.join(DTYPES)} are read: "
                "take the model's unquantized folder"
            )
    return places
