"""What the referee decided, and the runs by which it did: on the splits that no search looks at."""

from typing import NamedTuple

from research_env.bank import FINAL, SEARCH, SELECTION
from research_env.dashboard import plain
from research_env.dashboard.comparisons import Comparison
from research_env.dashboard.snapshot import Row, Snapshot, mean_and_error
from research_env.dashboard.wording import score
from sbp_jax.reporting.figures import table
from sbp_jax.reporting.markup import Markup, tag
from sbp_jax.reporting.sections import rows

SPLITS = (SEARCH, SELECTION, FINAL)


class Verdict(NamedTuple):
    words: str
    promoted: int | None  # the idea that is better, if one is


def of(snapshot: Snapshot) -> Verdict | None:
    """As the search keeps it, once it has ended."""
    found = table(snapshot.meta.get("verdict"))
    if not found:
        return None
    idea = found.get("idea") if found.get("significant") is True else None
    promoted = idea if isinstance(idea, int) and not isinstance(idea, bool) else None
    return Verdict(plain.line(found.get("said"), 600) or "no words", promoted)


def section(snapshot: Snapshot, compared: Comparison) -> Markup | None:
    decided = of(snapshot)
    retested = {found.idea for found in snapshot.retests if found.split != SEARCH} - {0}
    if decided is None and not retested:
        return None
    words = tag("p", _sentence(decided.words), class_="said") if decided else None
    by_id = {row.id: row for row in snapshot.rows}
    sign = -1 if snapshot.maximize else 1
    ordered = sorted(
        (by_id[id] for id in retested if id in by_id),
        key=lambda row: (row.score is None, sign * (row.score or 0.0)),
    )
    first = [by_id[0]] if 0 in by_id else []
    lines = [
        [_name(row), *(_scores(snapshot, row, split, compared.decimals) for split in SPLITS)]
        for row in [*first, *ordered]
    ]
    head = ["Idea", *(f"On {split}" for split in SPLITS)]
    shown = rows(head, lines, "Scores on the splits") if retested else None
    note = tag("p", "Mean ± its standard error (runs).", class_="caveat") if shown else None
    return tag("div", words, shown, note)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!")) else ".")


def _name(row: Row) -> Markup:
    return tag("a", f"#{row.id} ", tag("bdi", row.title or row.kind), href=f"#idea={row.id}")


def _scores(snapshot: Snapshot, row: Row, split: str, decimals: int | None) -> str:
    scores = snapshot.scores(row.id, split)
    mean, error = mean_and_error(scores)
    if mean is None and split == SEARCH:
        mean = row.score
    spread = f" ± {score(error, decimals)}" if error is not None else ""
    runs = f" ({len(scores)})" if len(scores) > 1 else ""
    return f"{score(mean, decimals)}{spread}{runs}"
