"""What the referee decided, and the runs by which it did: on the splits that no search looks at."""

from typing import Any, NamedTuple

from research_env.bank import FINAL, SEARCH, SELECTION
from research_env.dashboard import plain
from research_env.dashboard.comparisons import Comparison
from research_env.dashboard.snapshot import Row, Snapshot, mean_and_error
from research_env.dashboard.wording import score
from sbp_jax.reporting import wording
from sbp_jax.reporting.figures import table
from sbp_jax.reporting.markup import Markup, tag
from sbp_jax.reporting.sections import rows
from sbp_jax.reporting.wording import number

SPLITS = (SEARCH, SELECTION, FINAL)


class Tested(NamedTuple):
    """An idea against the baseline; its gain is positive where it is better."""

    idea: int
    gain: float | None
    low: float | None
    high: float | None
    p: float | None
    corrected: float | None


class Verdict(NamedTuple):
    words: str
    promoted: int | None
    selection: tuple[Tested, ...]
    final: Tested | None


def of(snapshot: Snapshot) -> Verdict | None:
    """From the bank, as far as it can be read there: as JSON, named tuples are lists."""
    said = snapshot.meta.get("verdict")
    if not said:
        return None
    if isinstance(said, str):
        return Verdict(plain.line(said, 600), None, (), None)
    found = table(said)
    promoted = found.get("promoted")
    if promoted is None and found.get("significant"):
        promoted = found.get("idea")
    selection = found.get("selection")
    tested = map(_tested, selection if isinstance(selection, list) else [])
    return Verdict(
        plain.line(found.get("words"), 600) or _words(promoted),
        promoted if isinstance(promoted, int) and not isinstance(promoted, bool) else None,
        tuple(one for one in tested if one is not None),
        _tested(found.get("final")),
    )


def _words(promoted: Any) -> str:
    return "no idea was significantly better" if promoted is None else f"idea {promoted} is better"


def _tested(found: Any) -> Tested | None:
    if isinstance(found, list):
        found = dict(zip(("idea", "effect", "p", "corrected"), found, strict=False))
    if not isinstance(found, dict) or not isinstance(found.get("idea"), int):
        return None
    effect = found.get("effect")
    if isinstance(effect, list):
        effect = dict(zip(("low", "mean", "high"), effect, strict=False))
    gain, low, high = (number(table(effect).get(name)) for name in ("mean", "low", "high"))
    p, corrected = number(found.get("p")), number(found.get("corrected"))
    return Tested(found["idea"], gain, low, high, p, corrected)


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
    tests = {one.idea: one for one in decided.selection} if decided else {}
    final = {decided.final.idea: decided.final} if decided and decided.final else {}
    first = [by_id[0]] if 0 in by_id else []
    lines = [
        [
            _name(row),
            *(_scores(snapshot, row, split, compared.decimals) for split in SPLITS),
            *(_p(found.get(row.id)) for found in (tests, final) if found),
        ]
        for row in [*first, *ordered]
    ]
    head = ["Idea", *(f"On {split}" for split in SPLITS)]
    head += [label for label, found in (("p, selection", tests), ("p, final", final)) if found]
    note = "Mean ± its standard error (runs)."
    if tests:
        note += " p is corrected for the number of ideas that were run again."
    shown = rows(head, lines, "Scores on the splits") if retested else None
    return tag("div", words, shown, tag("p", note, class_="caveat") if shown else None)


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


def _p(tested: Tested | None) -> str:
    if tested is None or tested.corrected is None:
        return wording.DASH
    return f"{tested.corrected:.2g}"
