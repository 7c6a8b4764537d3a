"""The rows of a bank of ideas, and the tables that they lie in."""

import hashlib
from typing import Any, NamedTuple

QUEUED, RUNNING = "queued", "running"
SEARCH, SELECTION, FINAL = "search", "selection", "final"

SCHEMA = """
CREATE TABLE IF NOT EXISTS ideas(
  id INTEGER PRIMARY KEY, hash TEXT UNIQUE NOT NULL, title TEXT, text TEXT, diff TEXT,
  parents TEXT, strategy TEXT, author TEXT, kind TEXT, state TEXT, reason TEXT, score REAL,
  cost REAL, tokens INTEGER, seconds REAL, created REAL, finished REAL, group_id TEXT,
  promoted INTEGER, niche TEXT, context TEXT);
CREATE INDEX IF NOT EXISTS ideas_by_score ON ideas(state, score);
CREATE TABLE IF NOT EXISTS runs(
  id INTEGER PRIMARY KEY, idea INTEGER NOT NULL, split TEXT, seed INTEGER, attempt INTEGER,
  state TEXT, score REAL, seconds REAL, reason TEXT, log TEXT, metrics TEXT,
  started REAL, finished REAL, UNIQUE(idea, split, seed, attempt));
CREATE INDEX IF NOT EXISTS runs_by_state ON runs(state);
CREATE TABLE IF NOT EXISTS repairs(idea INTEGER, attempt INTEGER, error TEXT, diff TEXT);
CREATE TABLE IF NOT EXISTS contexts(sha TEXT PRIMARY KEY, text TEXT);
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT);
"""


class Idea(NamedTuple):
    """A row of `ideas`, in its order."""

    id: int
    hash: str
    title: str
    text: str
    diff: str
    parents: tuple[int, ...]
    strategy: str
    author: str
    kind: str
    state: str
    reason: str
    score: float | None  # the mean of its runs on the search split
    cost: float
    tokens: int
    seconds: float
    created: float
    finished: float | None
    group_id: str
    promoted: bool
    niche: str
    context: str  # sha of a row of `contexts`


class Run(NamedTuple):
    """A row of `runs`, in its order."""

    id: int
    idea: int
    split: str
    seed: int
    attempt: int
    state: str
    score: float | None
    seconds: float
    reason: str
    log: str  # a path below the workdir
    metrics: dict[str, float]
    started: float | None
    finished: float | None


class Duplicate(ValueError):
    """This very change is in the bank, as idea `existing`."""

    def __init__(self, existing: int):
        super().__init__(f"the same change as idea {existing}")
        self.existing = existing


def content_hash(diff: str, text: str = "") -> str:
    """Of the change; of the words only where there is no change to tell ideas apart by."""
    told = diff if diff.strip() else f"no change: {text}"
    return hashlib.sha256(storable(told).encode()).hexdigest()


def storable(value: Any) -> Any:
    """Models write half characters at times, which no file can hold."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
