"""TokenStore: one long tape of token ids with document offsets, read at random.

A training window is a slice of the tape, so any sequence length works and a reader's only state is
an index. Inner chunks carry a crc32c, so a flipped byte fails the read that meets it; the sha256 of
every file is in the manifest, so `verify` finds it beforehand.

    DIR/tokens/  DIR/offsets/  (DIR/marks/)   zarr3, sharded      DIR/manifest.json   last

Pair examples are packed into rows of one length (pack.py); `marks` then tells targets and borders.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorstore as ts
from etils import epath

from sbp_jax import files
from sbp_jax.errors import UserError

CHUNK_TOKENS = 1 << 16  # unit of reading and decoding
SHARD_TOKENS = 1 << 26  # unit of writing: one file; 1T tokens are 15,000 files
IN_MEMORY_BYTES = 1 << 28  # arrays up to this size are decoded once and kept: 5 times as fast
CACHE_BYTES = 1 << 28  # of larger ones, the decoded chunks and shard indexes used last

TARGET = 1  # mark: this token counts in the loss when it is predicted
FIRST = 2  # mark: first token of an example


class TokenStore:
    """A finished store, local or in object storage."""

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)
        self.manifest = files.read_manifest(path)
        if self.manifest.get("kind") != "tokens":
            raise UserError(
                f"{path}: its manifest says {self.manifest.get('kind')!r}, not a token store"
            )
        if self.manifest.get("checksum") != _checksum(self.manifest):
            raise UserError(
                f"{path}/{files.MANIFEST}: damaged or edited; delete the store and make it again"
            )
        self.num_tokens: int = self.manifest["tokens"]
        self.num_documents: int = self.manifest["documents"]
        self.row_length: int | None = self.manifest.get("row_length")  # of packed pairs
        shard = self.manifest["shard_tokens"]
        self._tokens = Array(self.path, "tokens", self.manifest["dtype"], self.num_tokens, shard)
        self._offsets = Array(self.path, "offsets", "int64", self.num_documents + 1, shard)
        if self.row_length:
            self._marks = Array(self.path, "marks", "uint8", self.num_tokens, shard)

    @property
    def num_training_tokens(self) -> int:
        """Held-out documents are the tail of the tape; this is where they begin."""
        return self.num_tokens - self.manifest["held_out_tokens"]

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._tokens.read(start, stop)

    def document(self, index: int) -> np.ndarray:
        start, stop = self._offsets.read(index, index + 2)
        return self.read(int(start), int(stop))

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """[len(starts), length]; past the end the last token of the tape is repeated."""
        return self._tokens.windows(starts, length)

    def mark_windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        return self._marks.windows(starts, length)


def verify(path: epath.PathLike) -> None:
    """Reads every file of a store and compares its sha256; `UserError` names those that differ."""
    store = TokenStore(path)

    def sound(name: str, sha256: str) -> bool:
        path = store.path / name
        return path.exists() and _file_sha256(path) == sha256

    damaged = [name for name, sha in store.manifest["files"].items() if not sound(name, sha)]
    if damaged:
        raise UserError(
            f"{path}: damaged or missing: {', '.join(damaged)}; restore from a copy, or delete the "
            "store and make it again"
        )


def token_dtype(vocab_size: int) -> str:
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def refuse_other_inputs(
    path: epath.PathLike, recorded: dict[str, Any], inputs: dict[str, Any]
) -> None:
    """What is there is taken for the result only if it was made of the same."""
    changed = [
        f"{k} {recorded.get(k)!r} -> {v!r}" for k, v in inputs.items() if recorded.get(k) != v
    ]
    if changed:
        raise UserError(
            f"{path}: made from other inputs ({'; '.join(changed)}); delete it or choose another "
            "output"
        )


class Array:
    """One zarr3 array of a store, written in whole shards and read anywhere."""

    def __init__(
        self,
        folder: epath.PathLike,
        name: str,
        dtype: str,
        length: int,
        shard: int,
        create: bool = False,
    ):
        self._folder, self.name, self.length = folder, name, length
        self.dtype, self.shard = np.dtype(dtype), shard
        try:
            self._store = ts.open(
                self._spec(),
                open=True,
                create=create,
                context=ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}}),
            ).result()
        except ValueError as error:
            raise UserError(
                f"{folder}: array {name!r} cannot be opened: {_reason(error)}; make it again"
            ) from error

    def _spec(self) -> dict[str, Any]:
        def codec(name: str, **configuration: Any) -> dict[str, Any]:
            return {"name": name, "configuration": configuration}

        little, crc = codec("bytes", endian="little"), {"name": "crc32c"}
        return {
            "driver": "zarr3",
            "kvstore": _kvstore(epath.Path(self._folder) / self.name),
            # The full metadata, so that a damaged zarr.json cannot change what is read.
            "metadata": {
                "shape": [self.length],
                "data_type": self.dtype.name,
                "fill_value": 0,
                "chunk_grid": codec("regular", chunk_shape=[self.shard]),
                "codecs": [
                    codec(
                        "sharding_indexed",
                        chunk_shape=[min(CHUNK_TOKENS, self.shard)],
                        codecs=[little, codec("zstd", level=1), crc],
                        index_codecs=[little, crc],
                    )
                ],
            },
            # A missing file is an error, not a run of zeros.
            "store_data_equal_to_fill_value": True,
            "fill_missing_data_reads": False,
            "recheck_cached_data": "open",
        }

    def read(self, start: int, stop: int) -> np.ndarray:
        if not 0 <= start <= stop <= self.length:
            raise IndexError(f"{self.name}[{start}:{stop}] of {self.length}")
        if self._fits:
            return self._memory[start:stop]
        return self._result(self._store[start:stop].read())

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        if self._fits:
            return self._memory[
                np.minimum(np.asarray(starts)[:, None] + np.arange(length), self.length - 1)
            ]
        # All reads are in flight together.
        futures = [
            self._store[start : min(start + length, self.length)].read()
            for start in map(int, starts)
        ]
        rows = [self._result(future) for future in futures]
        return np.stack([np.pad(row, (0, length - len(row)), mode="edge") for row in rows])

    def write_shard(self, index: int, data: np.ndarray) -> dict[str, str]:
        """Writes the `index`-th shard in one piece; returns what `finish` needs to know of it."""
        start = index * self.shard
        assert len(data) == min(self.shard, self.length - start)
        name = f"{self.name}/c/{index}"
        try:
            self._store[start : start + len(data)].write(
                data.astype(self.dtype, copy=False)
            ).result()
        except ValueError as error:
            raise UserError(f"{self._folder}/{name}: cannot write: {_reason(error)}") from error
        return {
            "file": name,
            "file_sha256": _file_sha256(epath.Path(self._folder) / name),
            "content_sha256": hashlib.sha256(data.data).hexdigest(),
        }

    @property
    def num_shards(self) -> int:
        return -(-self.length // self.shard)

    @property
    def _fits(self) -> bool:
        return self.length * self.dtype.itemsize <= IN_MEMORY_BYTES

    @functools.cached_property
    def _memory(self) -> np.ndarray:
        array = self._result(self._store.read())
        array.flags.writeable = False
        return array

    def _result(self, future: ts.Future) -> np.ndarray:
        try:
            return future.result()
        except ValueError as error:
            raise UserError(
                f"{self._folder}: array {self.name!r} is damaged: {_reason(error)}; "
                "restore it from a copy, or delete the store and make it again"
            ) from error


def sole_writer(output: epath.PathLike) -> contextlib.AbstractContextManager[None]:
    """A lock beside the store, for the time of writing it."""
    path = epath.Path(output if files.is_remote(output) else os.path.realpath(output))
    lock = path.parent / f".{path.name}.lock"
    return files.exclusive(lock, f"{output}: another process is writing this")


def unfinished_folder(output: epath.PathLike, plan: dict[str, Any]) -> epath.Path:
    """Where a writer keeps what it needs until the store is finished, `plan` being its inputs."""
    folder = epath.Path(output) / "pieces"
    if (path := folder / "plan.json").exists():
        refuse_other_inputs(output, json.loads(path.read_text()), plan)
    files.write_json(path, plan)
    return folder


def is_unfinished(folder: epath.PathLike) -> bool:
    """Whether a folder without a sound manifest is what a writer of stores left behind."""
    return any((epath.Path(folder) / f).exists() for f in ("pieces/plan.json", "tokens/zarr.json"))


def finish(
    output: epath.PathLike, manifest: dict[str, Any], shards: Iterable[dict[str, str]]
) -> dict[str, Any]:
    """Completes and writes the manifest of a store whose arrays are written."""
    shards = list(shards)
    arrays = sorted({shard["file"].split("/")[0] for shard in shards})
    listed = {shard["file"]: shard["file_sha256"] for shard in shards}
    listed |= {f"{a}/zarr.json": _file_sha256(epath.Path(output) / a / "zarr.json") for a in arrays}
    # Of what the store says, not of its bytes: another zstd must not change the data's identity.
    contents = "".join(shard["content_sha256"] for shard in shards)
    manifest = {
        "kind": "tokens",
        **manifest,
        "sha256": files.sha256(contents.encode()),
        "files": listed,
    }
    manifest["checksum"] = _checksum(manifest)
    files.write_manifest(output, manifest)
    return manifest


def _checksum(manifest: dict[str, Any]) -> str:
    rest = {k: v for k, v in manifest.items() if k != "checksum"}
    return files.sha256(json.dumps(rest, sort_keys=True).encode())


def _file_sha256(path: epath.Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()  # type: ignore[arg-type]


def _kvstore(path: epath.Path) -> Any:
    if files.is_remote(path):
        return f"{path}/"
    # TensorStore refuses "..", and what ".." means depends on the links before it.
    return {"driver": "file", "path": f"{os.path.realpath(path)}/"}


def _reason(error: Exception) -> str:
    return str(error).split(" [tensorstore_spec")[0].split(" [source locations")[0]
