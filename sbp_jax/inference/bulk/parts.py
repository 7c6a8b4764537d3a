"""A part of a bulk job: some documents' tasks, answered in any order, written in the input's.

Its file is made of its journal alone, whoever filled that: so what was interrupted is no other path
through here than what was not.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sbp_jax import files
from sbp_jax.data.corpus import ROW_GROUP, SCHEMA, Shard
from sbp_jax.inference.bulk.journal import Journal
from sbp_jax.inference.bulk.output import (
    EXAMPLES,
    Answer,
    Output,
    key,
    read_answers,
    read_json,
    there,
)
from sbp_jax.inference.engine import Completion, Request

_quoted = json.encoder.encode_basestring_ascii  # a row's meta thus takes a quarter of the time


class Task(NamedTuple):
    """A request, under the hash of all that its answer depends on, and where it comes from."""

    request: Request
    document: str
    source: str
    arguments: str  # JSON


class Part:
    """Some documents' tasks, which become one Parquet file."""

    def __init__(self, output: Output, shard: Shard, number: int, tasks: Sequence[Task]):
        self.tasks = tasks
        self.name = f"{key(shard)}-{number:05d}"
        self._output = output
        self._record = output.journals / f"{self.name}.json"
        self._hash = files.sha256("\n".join(f"{t.request.id} {t.source}" for t in tasks).encode())
        self._journal: Journal | None = None
        self.unanswered: set[str] = set()

    def finished(self) -> dict[str, Any] | None:
        record = read_json(self._record)
        if record is None or record["tasks_sha256"] != self._hash:
            return None
        return record if there(self._output.folder, record) else None

    def open(self, retry_errors: bool = False) -> None:
        # First, for the file that it describes may be replaced by one of as many bytes.
        self._record.unlink(missing_ok=True)
        path = self._output.journals / f"{self.name}.journal"
        self._journal = Journal(path)
        self.unanswered = {task.request.id for task in self.tasks}
        for answer in read_answers(path):
            if answer.finish_reason != "error" or not retry_errors:
                self.unanswered.discard(answer.id)

    def answer(self, completion: Completion) -> None:
        assert self._journal is not None
        self._output.begin_change()
        id, text, reason, prompt_tokens, new_tokens, _, _, error, cost, _ = completion
        # The fields of an `Answer`; making one for each would slow a fast engine down.
        self._journal.append((id, text, reason, prompt_tokens, new_tokens, cost, error))
        self.unanswered.discard(id)

    def sync(self) -> None:
        assert self._journal is not None
        self._journal.sync()

    def close(self) -> None:
        if self._journal:
            self._journal.close()

    def finish(self, model: str) -> dict[str, Any]:
        """Writes the Parquet file of what the journal says, then the record."""
        assert self._journal is not None
        self.close()
        answers: dict[str, Answer] = {}
        for answer in read_answers(self._journal.path):
            answers[answer.id] = answer  # the last counts: an earlier one was an error
        ids, texts, metas, costs = [], [], [], []
        examples: list[dict[str, str]] = []
        reasons: Counter[str] = Counter()
        tokens = prompts = empty = 0
        for task in self.tasks:
            id, text, reason, prompt_tokens, new_tokens, cost, error = answers[task.request.id]
            reasons[reason] += 1
            tokens, prompts = tokens + new_tokens, prompts + prompt_tokens
            costs.append(cost)
            if reason == "error":
                if len(examples) < EXAMPLES:
                    examples.append({"id": id, "document": task.document, "error": error})
            elif not (text.strip() and text.strip("\0")):  # no reader of a corpus would take it
                empty += 1
            else:
                ids.append(id)
                texts.append(text)
                metas.append(
                    f'{{"document": {_quoted(task.document)}, '
                    f'"document_source": {_quoted(task.source)}, "arguments": {task.arguments}, '
                    f'"finish_reason": {_quoted(reason)}, "prompt_tokens": {prompt_tokens}, '
                    f'"tokens": {new_tokens}, "model": {_quoted(model)}}}'
                )
        name = f"part-{self.name}.parquet"
        data = _parquet(ids, texts, metas) if ids else b""
        self._output.begin_change()
        if data:
            files.write_bytes(self._output.folder / name, data)
        record = {
            "tasks_sha256": self._hash,
            "tasks": len(self.tasks),
            "name": name,
            "rows": len(ids),
            "bytes": len(data),
            "sha256": files.sha256(data),
            "text_bytes": sum(len(text.encode()) for text in texts),
            "prompt_tokens": prompts,
            "tokens": tokens,
            "cost": math.fsum(costs),
            "finish_reasons": dict(sorted(reasons.items())),
            "empty": empty,
            "error_examples": examples,
        }
        files.write_json(self._record, record)
        return record


def _parquet(ids: list[str], texts: list[str], metas: list[str]) -> bytes:
    sources = ["synthesis"] * len(ids)
    columns = [pa.array(column, pa.string()) for column in (ids, texts, sources, metas)]
    sink = pa.BufferOutputStream()
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP)
    return sink.getvalue().to_pybytes()
