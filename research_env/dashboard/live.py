"""The bank as a live page has it: read again when another process has written, and sent as changes.

SQLite calls nobody when a bank changes; its `data_version` answers in microseconds, so one thread
asks it four times a second, and only while somebody looks. What a change costs (all rows of the
table are read again) sets how often that is done: a page may take a twentieth of one core from the
search that it shows.
"""

import contextlib
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from research_env import bank
from research_env.dashboard import details, page, snapshot
from research_env.dashboard.comparisons import Comparison, compare
from sbp_jax.errors import UserError
from sbp_jax.reporting.markup import Markup

ASK_SECONDS = 0.25
LEAST_SECONDS, SHARE = 0.5, 0.05  # between two readings; of one core
MOST_STREAMS = 32
log = logging.getLogger(__name__)


class Busy(Exception):
    """As many pages are open as there may be."""


class Live:
    def __init__(self, workdir: Path):
        self.workdir = workdir
        self._file = snapshot.path(workdir)
        self._lock = threading.Lock()  # of all below
        self._told = threading.Condition()  # of revision and streams
        self._reader = snapshot.Reader(self._file)
        self._inode = self._file.stat().st_ino
        self._version = -1
        self._next_reading = 0.0
        self._rows: dict[int, tuple[snapshot.Row, int]] = {}  # with the revision of its last change
        self._sections: dict[str, tuple[Markup, int]] = {}
        self._epoch = secrets.token_hex(8)  # revisions are of this process
        self._trouble = ""
        self._running: bool | None = None
        self.revision = 0
        self.streams = 0
        self._read()

    def watch(self) -> threading.Thread:
        thread = threading.Thread(target=self._watch, daemon=True, name="bank")
        thread.start()
        return thread

    def document(self) -> str:
        with self._lock:
            self._read()
            data = {"revision": self.revision, "epoch": self._epoch}
            return page.document(self._snapshot, page.LIVE, data)

    def state(self, epoch: str, since: int) -> dict[str, Any]:
        """What has changed since a revision; everything, if that was of another process."""
        with self._lock:
            if not self.streams:
                self._read()
            if epoch != self._epoch:
                since = -1
            return {
                "epoch": self._epoch,
                "revision": self.revision,
                "all": since < 0,
                "rows": [page.packed(row) for row, at in self._rows.values() if at > since],
                "sections": {name: made for name, (made, at) in self._sections.items()
                             if at > since},
                "facts": page.facts(self._snapshot, self._compared),
                "trouble": self._trouble,
            }  # fmt: skip

    def idea(self, number: int) -> dict[str, Any]:
        with bank.Bank(self._file) as opened:
            return details.idea(opened, number)

    def context(self, number: int) -> str:
        with bank.Bank(self._file) as opened:
            return details.context(opened, number)

    def log(self, run: int) -> str:
        with bank.Bank(self._file) as opened:
            return details.log(opened, self.workdir, run)

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        with self._told:
            if self.streams >= MOST_STREAMS:
                raise Busy
            self.streams += 1
            self._told.notify_all()
        try:
            yield
        finally:
            with self._told:
                self.streams -= 1

    def wait(self, seen: int, seconds: float) -> int:
        """The revision, as soon as it is another than the one seen."""
        with self._told:
            self._told.wait_for(lambda: self.revision != seen, seconds)
            return self.revision

    def _watch(self) -> None:
        while True:
            with self._told:
                self._told.wait_for(lambda: self.streams > 0)
            time.sleep(ASK_SECONDS)
            if time.monotonic() >= self._next_reading:
                with self._lock:
                    self._read()

    def _read(self) -> None:
        """If something has changed."""
        try:
            self._reopen_if_replaced()
            version, running = self._reader.version(), snapshot.is_running(self.workdir)
            if (version, running) == (self._version, self._running):
                return
            begun, worked = time.monotonic(), time.thread_time()
            found = self._reader.snapshot()
            self._version, self._running, self._trouble = version, running, ""
        except (sqlite3.Error, OSError, UserError) as error:
            if not self._version_known():
                raise
            if str(error) != self._trouble:  # once, though it is asked four times a second
                self._trouble = str(error)
                log.warning("%s: %s", self._file, error)
                self._tell()
            return
        self._take(found, compare(found))
        took = time.thread_time() - worked  # not what other programs took meanwhile
        self._next_reading = begun + max(LEAST_SECONDS, took / SHARE)

    def _version_known(self) -> bool:
        return self._version >= 0

    def _reopen_if_replaced(self) -> None:
        """By another search in the same place."""
        inode = self._file.stat().st_ino
        if inode != self._inode:
            fresh = snapshot.Reader(self._file)
            self._reader.close()
            self._reader, self._inode, self._version = fresh, inode, -1
            self._rows, self._epoch = {}, secrets.token_hex(8)

    def _take(self, found: snapshot.Snapshot, compared: Comparison) -> None:
        self._snapshot, self._compared = found, compared
        revision = self.revision + 1
        old = self._rows
        self._rows = {}
        for row in found.rows:
            before = old.get(row.id)
            self._rows[row.id] = before if before and before[0] == row else (row, revision)
        for name, made in page.made_sections(found, compared).items():
            section = self._sections.get(name)
            if section is None or section[0] != made:
                self._sections[name] = (made, revision)
        self._tell()

    def _tell(self) -> None:
        with self._told:
            self.revision += 1
            self._told.notify_all()
