"""Text in: whatever the user names becomes a `Corpus`, shards of documents read as streams.

A folder of Parquet files counts as a corpus only with the manifest that `write_corpus` puts there
last, so that a job that was stopped half-way is never mistaken for its result. A shard is a unit of
parallel work: it is pickled to the process that reads it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging
from etils import epath

from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.errors import UserError

OnBadRow = Callable[[UserError], None]

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "text", "source", "meta")])
ROW_GROUP = 1_000  # rows that a reader holds at one time


@dataclass(frozen=True)
class Document:
    """A row of a corpus."""

    id: str
    text: str
    source: str = ""
    meta: str = "{}"  # JSON


class Shard(Protocol):
    """A part of a corpus that one process reads; must be picklable."""

    @property
    def name(self) -> str:
        """Unique in the corpus, the same on every machine."""
        ...

    def read(self, on_bad_row: OnBadRow) -> Iterator[Document]:
        """The documents; what is malformed goes to `on_bad_row`, which raises it or counts it."""
        ...


@dataclass(frozen=True)
class Corpus:
    name: str
    shards: Sequence[Shard]
    fingerprint: str  # identifies the input without reading it: names and sizes, or parameters


def open_corpus(spec: str, experiment: Experiment) -> Corpus:
    """The corpus that `data.input` names.

    - toyworld, toyworld:held_out, toyworld:fresh: the embedded world
    - docstrings: of the installed Python packages
    - addition: a hundred sums of two digits
    - a file, a folder (all readable files in it, recursively, but manifest.json), a glob
    - hf:NAME, hf:NAME:SPLIT, hf:NAME:CONFIG:SPLIT: a Hugging Face data set, streamed; NAME may be
      a local folder
    - seqio:TASK, seqio:package.module:TASK: a task or mixture; importing the module registers it
    """
    from sbp_jax.data import addition, sources, text_files  # which build on this module

    kind, _, rest = spec.partition(":")
    if kind == "toyworld":
        if rest not in ("", "train", "held_out", "fresh"):
            raise UserError(f"corpus {spec!r}: the toy world's splits are train, held_out, fresh")
        from sbp_jax.data import toyworld

        return toyworld.corpus(rest or "train", experiment.toyworld)
    if spec == "docstrings":
        return sources.docstrings()
    if spec == "addition":
        return addition.corpus()
    if kind == "hf":
        return sources.hugging_face(rest, experiment.data.text_field)
    if kind == "seqio":
        return sources.seqio_task(rest, experiment.data.text_field, experiment.seed)
    if folder := input_folder(spec):
        if files.manifest_kind(folder):
            return _open_written(folder, files.read_manifest(folder))
        _refuse_unfinished(folder)
    return text_files.open_files(spec, experiment.data.text_field)


def input_folder(spec: str) -> epath.Path | None:
    """The folder that `spec` names, unless it names something else."""
    kind, path = spec.partition(":")[0], epath.Path(spec)
    return (
        path
        if kind not in ("toyworld", "docstrings", "addition", "hf", "seqio") and path.is_dir()
        else None
    )


def refuse_inside(spec: str, output: epath.PathLike) -> None:
    """An output inside the input would be read as part of it when the same command resumes."""
    folder = input_folder(spec)
    if folder and _lies_in(output, folder):
        raise UserError(f"output {output} lies in the input folder {folder}; choose another place")


def refuse_over(spec: str, corpus: Corpus, output: epath.PathLike) -> None:
    """An output around files of its input might be written over them."""
    from sbp_jax.data.text_files import FileShard

    if any(_lies_in(s.path, output) for s in corpus.shards if isinstance(s, FileShard)):
        raise UserError(f"output {output} holds files of the input {spec}; choose another place")


def _lies_in(path: epath.PathLike, folder: epath.PathLike) -> bool:
    if files.is_remote(path) or files.is_remote(folder):
        return False
    return f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(folder)}/")


def _refuse_unfinished(folder: epath.Path) -> None:
    """Folders of ours whose files only look like texts."""
    from sbp_jax.data.tokens import is_unfinished  # TensorStore, which others need not wait for

    if is_unfinished(folder):
        raise UserError(
            f"{folder}: an unfinished token store; run the command that writes it again"
        )
    if (folder / "config.json").exists() and (
        (folder / "checkpoints").exists() or (folder / "metrics.jsonl").exists()
    ):
        raise UserError(f"{folder}: a run's folder, not a corpus; its tokens are in {folder}/data")


def read_documents(corpus: Corpus, on_error: str) -> Iterator[Document]:
    """All documents in order, for small corpora and samples; on_error is stop or skip."""

    def on_bad_row(error: UserError) -> None:
        if on_error == "stop":
            raise error
        logging.warning("skipped %s", error)

    for shard in corpus.shards:
        yield from shard.read(on_bad_row)


def fingerprint(*parts: Any) -> str:
    return files.sha256(json.dumps(parts).encode())


def write_corpus(
    documents: Iterable[Document],
    output: epath.PathLike,
    *,
    rows_per_shard: int = 100_000,
    extras: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes Parquet shards and last the manifest, with `extras` added to it; returns it."""
    folder, rows = epath.Path(output), iter(documents)
    (folder / files.MANIFEST).unlink(missing_ok=True)  # from here on, what was there is no corpus
    shards: list[dict[str, Any]] = []
    text_bytes = 0
    while True:
        sink = pa.BufferOutputStream()
        count = 0
        with pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer:
            while group := [vars(d) for d in islice(rows, min(ROW_GROUP, rows_per_shard - count))]:
                writer.write_table(pa.Table.from_pylist(group, SCHEMA))
                count += len(group)
                text_bytes += sum(len(row["text"].encode()) for row in group)
        if not count:
            break
        name, data = f"part-{len(shards):05d}.parquet", sink.getvalue().to_pybytes()
        files.write_bytes(folder / name, data)
        shards.append(
            {"name": name, "rows": count, "bytes": len(data), "sha256": files.sha256(data)}
        )
    names = {shard["name"] for shard in shards}
    for old in folder.glob("part-*.parquet"):  # of a larger corpus that this one replaces
        if old.name not in names:
            old.unlink()
    manifest = {
        **(extras or {}),
        "kind": "corpus",
        "documents": sum(shard["rows"] for shard in shards),
        "bytes": text_bytes,
        "shards": shards,
        "sha256": files.sha256("".join(shard["sha256"] for shard in shards).encode()),
    }
    files.write_manifest(folder, manifest)
    return manifest


def verify_corpus(path: epath.PathLike) -> None:
    """Reads every byte of a written corpus and names the shard that is not as it was written."""
    folder = epath.Path(path)
    manifest = files.read_manifest(folder)
    _open_written(folder, manifest)
    for shard in manifest["shards"]:
        digest = hashlib.sha256()
        with (folder / shard["name"]).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != shard["sha256"]:
            raise UserError(
                f"{folder / shard['name']}: damaged, not the manifest's sha256: make it again"
            )


def _open_written(folder: epath.Path, manifest: dict[str, Any]) -> Corpus:
    from sbp_jax.data.text_files import FileShard, file_size

    if manifest.get("kind") != "corpus":
        raise UserError(f"{folder}: holds {manifest.get('kind')}, not a corpus")
    there = {path.name for path in folder.glob("*.parquet")}
    for shard in manifest["shards"]:
        path = folder / shard["name"]
        if shard["name"] not in there:
            raise UserError(
                f"{path}: missing, though the manifest lists it: delete the folder and "
                "make the corpus again"
            )
        if (size := file_size(path)) != shard["bytes"]:
            raise UserError(
                f"{path}: {size} bytes, the manifest says {shard['bytes']}: delete the folder and "
                "make the corpus again"
            )
        there.remove(shard["name"])
    if there:
        raise UserError(
            f"{folder / min(there)}: not in the manifest beside it; take it out of this folder"
        )
    shards = [
        FileShard(s["name"], str(folder / s["name"]), rows=s["rows"]) for s in manifest["shards"]
    ]
    return Corpus(str(folder), shards, fingerprint("corpus", manifest["sha256"]))
