"""How far a bulk job is: a line every few seconds, and the rate that a later estimate goes by."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from sbp_jax import files
from sbp_jax.data.corpus import Corpus, Shard
from sbp_jax.data.text_files import FileShard, file_size
from sbp_jax.inference.bulk.output import SPEED
from sbp_jax.inference.engine import Completion

EVERY_S = 5.0
log = logging.getLogger(__name__)


class Progress:
    """Counts what its process does, and what it finds done."""

    def __init__(self, corpus: Corpus, journals: Path):
        self._corpus, self._journals = corpus, journals
        self._start = self._last = time.monotonic()
        self.shards: set[str] = set()  # names of those that are counted and finished
        self._asked = self._tokens = 0  # answered by this process
        self._cost = 0.0
        self.done = 0  # tasks whose answers are there
        self.tasks = self.documents = self.characters = 0  # read from the input
        self.all_read = False

    def skip(self, shard: Shard, record: Mapping[str, Any]) -> None:
        """A shard that is finished."""
        if shard.name not in self.shards:
            self.shards.add(shard.name)
            tasks = sum(part["tasks"] for part in record["parts"])
            self.done, self.tasks = self.done + tasks, self.tasks + tasks
            self.documents += record["documents"]
            self.characters += record["characters"]

    def answered(self, completion: Completion) -> bool:
        """Whether it is time to sync, too."""
        self.done += 1
        self._asked += 1
        self._tokens += completion.new_tokens
        self._cost += completion.cost
        if time.monotonic() - self._last < EVERY_S:
            return False
        self.report()
        return True

    def report(self) -> None:
        self._last = time.monotonic()
        seconds = self._last - self._start
        if not self._asked:
            return
        rate = {"tokens_per_s": self._tokens / seconds, "requests_per_s": self._asked / seconds}
        files.write_json(self._journals / SPEED, rate)
        total, tasks = f"{self.done:,} texts", self._expected_tasks()
        if tasks:
            left = (tasks - self.done) / rate["requests_per_s"]
            about = "" if self.all_read else "about "
            total = f"{self.done:,} of {about}{tasks:,} texts, about {left:,.0f} s left"
        log.info("%s, %.0f tokens/s, cost %.2f", total, rate["tokens_per_s"], self._cost)

    def _expected_tasks(self) -> int | None:
        if self.all_read:
            return self.tasks
        documents = expected_documents(self._corpus, self.documents, self.characters)
        if not documents:
            return None
        return max(self.done, round(documents * self.tasks / self.documents))


def expected_documents(corpus: Corpus, documents: int, characters: int) -> int | None:
    """How many a corpus has, if it says, or by the sizes of its files and what was read of them."""
    shards = [shard for shard in corpus.shards if isinstance(shard, FileShard)]
    if len(shards) < len(corpus.shards):
        return None
    if all(shard.rows >= 0 for shard in shards):
        return sum(shard.rows for shard in shards)
    if not characters:
        return None
    # As if nothing but text were in them: low for packed files, high for many fields.
    size = sum(file_size(epath.Path(shard.path)) for shard in shards)
    return max(documents, round(size * documents / characters))
