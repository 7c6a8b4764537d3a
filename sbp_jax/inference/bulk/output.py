"""What a bulk job has on disk. Its Parquet parts are a function of input and answers alone: not of
who wrote them, in which order, or how often somebody was killed over it.

    OUTPUT/part-KEY-00000.parquet    answers, in the order of the input
    OUTPUT/manifest.json             last, when all parts are there
    OUTPUT/journal/KEY-00000.journal answers, in the order in which they came: kept, for what a
                                     changed prompt does not change is not asked again
    OUTPUT/journal/KEY-00000.json    what the manifest will say of a part; its part is whole
    OUTPUT/journal/KEY.json          the same of a shard of the input, whose name KEY stands for
    OUTPUT/journal/KEY.lock          held by the one process that works on that shard
"""

import contextlib
import fcntl
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from sbp_jax import files
from sbp_jax.data.corpus import Corpus, Shard
from sbp_jax.errors import UserError
from sbp_jax.inference.bulk import journal

SPEED = "speed.json"  # beside the journals: what this machine made of this job
EXAMPLES = 5  # of errors, in each record and the manifest
log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """A record of the journals."""

    id: str  # of the task
    text: str
    finish_reason: str
    prompt_tokens: int
    new_tokens: int
    cost: float
    error: str


class Output:
    """The folder of a job, of which `record` tells one from another."""

    def __init__(self, folder: Path, record: Mapping[str, Any]):
        self.folder, self.journals = folder, folder / "journal"
        self.record = json.loads(json.dumps(record))  # as it is read again, without tuples
        self.identity = files.sha256(json.dumps(self.record, sort_keys=True).encode())
        self._finished: dict[str, dict[str, Any]] = {}
        self._changing = False

    @contextlib.contextmanager
    def joined(self, alone: bool, retry_errors: bool = False) -> Iterator[None]:
        """Any number of processes may work on a job together, if none of them asked to be alone;
        on another job in the same folder, none meanwhile. What failed is asked again once by all
        who are at it together: the first one opens the parts with errors.
        """
        with files.locked(self.journals / "start.lock"):
            state = self.journals / "job.json"
            if not state.exists():
                self._refuse_others()
            before = read_json(state)
            changed = before != self.record
            first = lock = files.try_lock(self.journals / "job.lock")
            if not (first or changed or alone):
                lock = files.try_lock(self.journals / "job.lock", fcntl.LOCK_SH)
            if lock is None:
                raise UserError(
                    f"{self.folder}: another process is at work there with other settings or a "
                    "limit of its own; wait for it, or name another folder"
                )
            if changed:
                if before is not None and _but_extent(before) != _but_extent(self.record):
                    log.info("%s: the job has changed; what has not is kept", self.folder)
                files.write_json(state, self.record)
            if first and retry_errors:
                for path in self.journals.glob("*.json"):
                    if _has_errors(read_json(path) or {}):
                        path.unlink()
            if not alone:
                files.flock(lock, fcntl.LOCK_SH)
        with lock:
            yield

    def _refuse_others(self) -> None:
        """What is not a job's is not replaced by one."""
        whole = files.has_manifest(self.folder)
        ours = whole and "job" in files.read_manifest(self.folder)
        others = ("*.parquet", "checkpoints", "metrics.jsonl")  # a corpus, a run
        if not ours and (whole or any(any(self.folder.glob(name)) for name in others)):
            raise UserError(f"{self.folder}: holds something else; name another folder")

    def begin_change(self) -> None:
        """Before the first answer or change of a file. Until then a finished corpus stays one: the
        engine may refuse what its job was changed to.
        """
        if not self._changing:
            (self.folder / files.MANIFEST).unlink(missing_ok=True)
        self._changing = True

    def claim(self, shard: Shard) -> IO[bytes] | None:
        """The lock on a shard that nobody works on and that is not finished."""
        if self.finished(shard):
            return None
        lock = files.try_lock(self.journals / f"{key(shard)}.lock")
        if lock and self.finished(shard):  # by whoever held it a moment ago
            lock.close()
            return None
        if lock:
            (self.journals / f"{key(shard)}.json").unlink(missing_ok=True)  # of another job
        return lock

    def finish(self, shard: Shard, record: dict[str, Any]) -> None:
        record = {**record, "identity": self.identity}
        files.write_json(self.journals / f"{key(shard)}.json", record)

    def finished(self, shard: Shard) -> dict[str, Any] | None:
        """The record of a shard whose parts are all there."""
        name = key(shard)
        if name not in self._finished:
            record = read_json(self.journals / f"{name}.json")
            if record is None or record["identity"] != self.identity:
                return None
            if not all(there(self.folder, part) for part in record["parts"]):
                return None
            self._finished[name] = record
        return self._finished[name]

    def manifest(self) -> dict[str, Any] | None:
        """That of this job, if it is finished."""
        if not files.has_manifest(self.folder):
            return None
        manifest = files.read_manifest(self.folder)
        whole = all(there(self.folder, shard) for shard in manifest.get("shards", ()))
        return manifest if manifest.get("job") == self.record and whole else None

    def write_manifest(self, corpus: Corpus) -> dict[str, Any]:
        """When all shards are finished; whoever does it writes the same bytes."""
        records = [self._finished[key(shard)] for shard in corpus.shards]
        parts = [part for record in records for part in record["parts"]]
        shards = [
            {name: part[name] for name in ("name", "rows", "bytes", "sha256")}
            for part in parts
            if part["rows"]
        ]
        reasons: Counter[str] = Counter()
        for part in parts:
            reasons.update(part["finish_reasons"])
        rows = sum(part["rows"] for part in parts)
        manifest = {
            "kind": "corpus",
            "documents": rows,
            "rows": rows,
            "bytes": sum(part["text_bytes"] for part in parts),
            "prompt_tokens": sum(part["prompt_tokens"] for part in parts),
            "tokens": sum(part["tokens"] for part in parts),
            "cost": math.fsum(part["cost"] for part in parts),
            "finish_reasons": dict(sorted(reasons.items())),
            "errors": reasons["error"],
            "error_examples": [e for part in parts for e in part["error_examples"]][:EXAMPLES],
            "empty": sum(part["empty"] for part in parts),
            "bad_rows": sum(record["bad_rows"] for record in records),
            "bad_row_examples": [e for r in records for e in r["bad_row_examples"]][:EXAMPLES],
            "input": corpus.name,
            "job": self.record,
            "shards": shards,
            "sha256": files.sha256("".join(shard["sha256"] for shard in shards).encode()),
        }
        with files.locked(self.journals / "start.lock"):
            names = {shard["name"] for shard in shards}
            for path in self.folder.glob("part-*.parquet"):  # of a job before this one
                if path.name not in names:
                    self.begin_change()
                    path.unlink()
            for folder in (self.folder, self.journals):  # of writers that were killed
                for path in folder.glob(".*.tmp"):
                    if not path.name.startswith(f".{SPEED}."):  # a living one's, perhaps
                        path.unlink()
            files.write_manifest(self.folder, manifest)
        return manifest

    def answers(self, shard: Shard | None = None) -> Iterator[Answer]:
        """All that was ever answered here, or for one shard."""
        pattern = f"{key(shard)}-[0-9]*.journal" if shard else "*.journal"
        for path in sorted(self.journals.glob(pattern)):
            yield from read_answers(path)


def read_answers(path: Path) -> Iterator[Answer]:
    return map(Answer._make, journal.read(path))


def local_folder(path: Path | str) -> Path:
    if files.is_remote(path):
        raise UserError(f"{path}: write to a disk that all processes share, then copy it there")
    return Path(path).absolute()


def key(shard: Shard) -> str:
    """A name for files; it does not change when other shards come or go."""
    plain = re.sub(r"[^\w.-]", "_", shard.name, flags=re.ASCII)[-60:].lstrip(".")
    return f"{plain}-{files.sha256(shard.name.encode())[:8]}"


def there(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether a part's file is, at its size; one of no rows has none."""
    path = folder / record["name"]
    return not record["rows"] or (path.exists() and path.stat().st_size == record["bytes"])


def _but_extent(record: Mapping[str, Any]) -> dict[str, Any]:
    """A round more of a job is no other job."""
    return {name: value for name, value in record.items() if name != "extent"}


def _has_errors(record: Mapping[str, Any]) -> bool:
    """Of a part or a shard."""
    parts = record.get("parts", [record])
    return any("error" in part.get("finish_reasons", ()) for part in parts)


def read_json(path: Path) -> Any:
    """None for a file that is not there or damaged: what it says can be found out again."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
