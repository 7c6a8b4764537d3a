"""One engine at work on a bulk job: claims shards, and streams their requests into the engine."""

import contextlib
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from sbp_jax.data.corpus import Document, Shard
from sbp_jax.errors import UserError
from sbp_jax.inference.bulk.budget import Budget, within
from sbp_jax.inference.bulk.job import Job
from sbp_jax.inference.bulk.output import EXAMPLES, Output
from sbp_jax.inference.bulk.parts import Part, Task
from sbp_jax.inference.bulk.progress import Progress
from sbp_jax.inference.engine import Completion, Engine, EngineDied, Prompt, Request, Sampling

OpenEngine = Callable[[], Engine]

PART_SIZE = 1 << 27  # characters of documents, one counted again for each of its tasks,
TASK_SIZE = 4_000  # and as much for an answer: what an open part may hold in memory
DEATHS = 3  # of an engine in a row, without an answer between them
log = logging.getLogger(__name__)


class Worker:
    """An engine, and the shards that this process has claimed for it."""

    def __init__(
        self,
        job: Job,
        folder: Path,
        open_engine: OpenEngine,
        model: str = "",
        retry_errors: bool = False,
    ):
        """With `model`, which is its fingerprint, the engine is opened for the first request."""
        self.job, self._open_engine, self._retry_errors = job, open_engine, retry_errors
        self._engine: Engine | None = None
        self.model = model or self._open().fingerprint
        self.output = Output(folder, job.record(self.model))
        self.progress = Progress(job.corpus, self.output.journals)
        self._flight: dict[str, tuple[Request, list[_OpenPart]]] = {}
        self._claimed: list[_ClaimedShard] = []
        self._sampling: Sampling | None = None  # that the prefix of the hashes stands for
        self._prefix = hashlib.sha256()

    def close(self) -> None:
        if self._engine:
            self._engine.close()

    def work(self, shards: Iterable[Shard], budget: Budget) -> None:
        """Finishes all of the shards that nobody else is at, or as many as the budget allows."""
        deaths = 0
        requests = self._requests(shards)
        try:
            while True:
                try:
                    asked_again = [request for request, _ in self._flight.values()]
                    stream = itertools.chain(asked_again, requests)
                    first = next(stream, None)
                    if first is None:
                        break
                    stream = itertools.chain([first], stream)
                    for completion in within(self._open(), stream, budget):
                        self._answer(completion)
                        deaths = 0
                    if budget.exhausted or not self._flight:
                        break
                    raise EngineDied(f"it left {len(self._flight)} requests unanswered")
                except EngineDied as error:
                    deaths += 1
                    self._bury(error, deaths)
            self.progress.report()
        finally:
            self._flight.clear()
            with contextlib.ExitStack() as stack:  # closes all, whatever one of them meets
                for claimed in self._claimed:
                    stack.callback(claimed.close)
                self._claimed = []

    def _open(self) -> Engine:
        if self._engine is None:
            self._engine = self._open_engine()
            model = self._engine.fingerprint
            if getattr(self, "model", model) != model:
                raise UserError("the model has changed since this job was started; start it again")
        return self._engine

    def _bury(self, error: EngineDied, deaths: int) -> None:
        engine, self._engine = self._engine, None
        try:
            if engine:
                engine.close()
        except Exception as another:  # it is broken: anything may come of it
            log.warning("closing the engine that died: %s", another)
        if deaths == DEATHS:
            raise UserError(
                f"the engine died {DEATHS} times without an answer between: {error}; what was "
                "answered before is safe: resume with the same command"
            ) from error
        log.warning("the engine died (%s); starting another", error)

    def _requests(self, shards: Iterable[Shard]) -> Iterator[Request]:
        """What is left to ask of all shards that can be claimed, which then are this process's."""
        others = 0
        for shard in shards:
            lock = self.output.claim(shard)
            if lock is None:
                if record := self.output.finished(shard):
                    self.progress.skip(shard, record)
                others += not record
                continue
            claimed = _ClaimedShard(shard, lock)
            self._claimed.append(claimed)
            for number, tasks in enumerate(self._parts(claimed)):
                part = _OpenPart(self.output, claimed, number, tasks)
                claimed.parts.append(part.finished())
                if claimed.parts[-1]:
                    self.progress.done += len(tasks)
                    continue
                claimed.open[number] = part
                part.open(self._retry_errors)
                self.progress.done += len(tasks) - len(part.unanswered)
                for task in tasks:
                    request = task.request
                    if request.id not in part.unanswered:
                        continue
                    if request.id in self._flight:  # a document that is there twice
                        waiting = self._flight[request.id][1]
                        if part not in waiting:
                            waiting.append(part)
                        continue
                    self._flight[request.id] = request, [part]
                    yield request
                if not part.unanswered and number in claimed.open:
                    self._finish(part)
            claimed.read = True
            self._finish_shard(claimed)
        self.progress.all_read = not others

    def _answer(self, completion: Completion) -> None:
        _, parts = self._flight.pop(completion.id)
        for part in parts:
            part.answer(completion)
            if not part.unanswered:
                self._finish(part)
        if self.progress.answered(completion):
            for claimed in self._claimed:
                for part in claimed.open.values():
                    part.sync()

    def _finish(self, part: "_OpenPart") -> None:
        claimed = part.claimed
        claimed.parts[part.number] = part.finish(self.model)
        del claimed.open[part.number]
        self._finish_shard(claimed)

    def _finish_shard(self, claimed: "_ClaimedShard") -> None:
        if claimed.read and not claimed.open and claimed in self._claimed:
            record = {
                "documents": claimed.documents,
                "characters": claimed.characters,
                "parts": claimed.parts,
                "bad_rows": claimed.bad_rows,
                "bad_row_examples": claimed.bad_row_examples,
            }
            self.output.finish(claimed.shard, record)
            self.progress.shards.add(claimed.shard.name)
            self._claimed.remove(claimed)
            claimed.close()

    def _parts(self, claimed: "_ClaimedShard") -> Iterator[list[Task]]:
        """The shard's tasks, cut where nothing but the documents says."""
        tasks: list[Task] = []
        documents = size = 0
        for document in claimed.shard.read(claimed.on_bad_row):
            length = len(document.text)
            self.progress.documents += 1
            self.progress.characters += length
            for ask in self.job.requests(document):
                if size > PART_SIZE:
                    yield tasks
                    tasks, documents, size = [], 0, 0
                tasks.append(self._task(document, *ask))
                self.progress.tasks += 1
                size += length + TASK_SIZE
            claimed.documents += 1
            claimed.characters += length
            documents += 1
            if documents == self.job.part_documents:
                yield tasks
                tasks, documents, size = [], 0, 0
        if tasks:
            yield tasks

    def _task(
        self, document: Document, arguments: Mapping[str, Any], prompt: Prompt, sampling: Sampling
    ) -> Task:
        if sampling is not self._sampling:
            shared = [self.job.seed, self.model, sampling.settings()]
            shared += [self.job.context] if self.job.context else []
            self._sampling, self._prefix = sampling, hashlib.sha256(json.dumps(shared).encode())
        digest, purpose = self._prefix.copy(), json.dumps(arguments)
        what = prompt if isinstance(prompt, str) else json.dumps(prompt, default=dict)
        kind = type(prompt).__name__
        # With lengths, so that no two tasks run together to the same bytes.
        digest.update(f"{kind} {len(document.id)} {len(purpose)} ".encode())
        digest.update(f"{document.id}{purpose}{what}".encode("utf-8", "surrogatepass"))
        name = digest.digest()
        seed = int.from_bytes(name[16:20], "little") >> 1
        request = Request(name[:16].hex(), prompt, sampling, seed)
        return Task(request, document.id, document.source, purpose)


class _OpenPart(Part):
    def __init__(self, output: Output, claimed: "_ClaimedShard", number: int, tasks: list[Task]):
        super().__init__(output, claimed.shard, number, tasks)
        self.claimed, self.number = claimed, number


class _ClaimedShard:
    def __init__(self, shard: Shard, lock: IO[bytes]):
        self.shard, self.lock = shard, lock
        self.read = False  # to its end
        self.parts: list[dict[str, Any] | None] = []  # records of those that are finished
        self.open: dict[int, _OpenPart] = {}
        self.documents = self.characters = self.bad_rows = 0
        self.bad_row_examples: list[str] = []

    def on_bad_row(self, error: UserError) -> None:
        self.bad_rows += 1
        if len(self.bad_row_examples) < EXAMPLES:
            self.bad_row_examples.append(str(error))
            log.warning("left out: %s", error)

    def close(self) -> None:
        """The journals synced; the shard anyone's."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.lock.close)
            for part in self.open.values():
                stack.callback(part.close)
                stack.callback(part.sync)
