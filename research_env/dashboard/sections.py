"""The page's parts that are words and figures, as markup in which every text is escaped."""

import math
from typing import Any

from research_env.dashboard import plain
from research_env.dashboard.comparisons import Comparison
from research_env.dashboard.figures import counted, is_over, seconds_left, spending, title
from research_env.dashboard.snapshot import Row, Snapshot, mean_and_error
from research_env.dashboard.wording import score
from sbp_jax.reporting import wording
from sbp_jax.reporting.figures import table
from sbp_jax.reporting.markup import Markup, tag
from sbp_jax.reporting.sections import rows
from sbp_jax.reporting.wording import number

SPLITS = ("search", "selection", "final")


def header(snapshot: Snapshot) -> Markup:
    meta = snapshot.meta
    facts = [plain.line(meta.get("size"), 40), plain.line(meta.get("strategy"), 60)]
    facts += [plain.line(meta.get(name), 60) for name in ("engine", "sandbox")]
    facts += [f"seed {meta['seed']}"] if isinstance(meta.get("seed"), int) else []
    facts += [plain.line(meta.get("version"), 40)]
    return tag(
        "div",
        tag("h1", tag("bdi", title(snapshot))),
        tag("p", " · ".join(filter(None, facts)), class_="facts"),
    )


def headline(snapshot: Snapshot, compared: Comparison) -> Markup:
    """The one number, and whether there is reason to believe it."""
    best, base = snapshot.best(), compared.baseline

    def form(value: float | None) -> str:
        return score(value, compared.decimals)

    metric = plain.line(snapshot.meta.get("metric") or "score", 60)
    if best is None or best.score is None:
        waiting = "No idea has a score yet."
        told = f"The baseline's {metric} is {form(base)}." if base is not None else ""
        return _big(form(base), "baseline", waiting, tag("p", told, class_="caveat"))
    said: list[Any] = [tag("a", f"#{best.id} ", tag("bdi", best.title), href=f"#idea={best.id}")]
    unit, caveat = metric, "On the split that the search itself looks at. "
    if compared.error:
        unit += f", {form(best.score - compared.error)} to {form(best.score + compared.error)}"
    if base is not None:
        gain = (best.score - base) * (1 if snapshot.maximize else -1)
        word = "better" if gain > 0 else "worse"
        share = f" ({wording.percent(abs(gain / base), 1)})" if base else ""
        said.append(f": {form(abs(gain))} {word} than the baseline's {form(base)}{share}.")
        caveat += _trust(gain, snapshot, compared)
    return _big(form(best.score), unit, said, tag("p", caveat, class_="caveat"))


def _trust(gain: float, snapshot: Snapshot, compared: Comparison) -> str:
    if gain <= 0:
        return "Nothing is better than the baseline yet."
    if not compared.noise or compared.luck is None or compared.baseline is None:
        return "The noise is not known, so this may be chance."
    n = len(compared.ended)
    luck = compared.luck.high[-1] if snapshot.maximize else compared.luck.low[-1]
    by_luck = abs(luck - compared.baseline)
    times = f"{gain / compared.noise:.1f} times the noise of one score"
    if gain <= by_luck:
        return (
            f"It is {times}; the best of {n:,} ideas that change nothing may be as good. "
            "No improvement is shown."
        )
    return (
        f"It is {times}, more than the best of {n:,} ideas that change nothing would reach; fresh "
        "seeds and the other splits decide."
    )


def _big(number_: str, unit: str, said: Any, *more: Markup) -> Markup:
    return tag(
        "div",
        tag("p", tag("span", number_, class_="figure"), " ", tag("small", unit), class_="big"),
        tag("div", tag("p", said, class_="said"), *more),
        class_="headline",
    )


# Progress


def progress(snapshot: Snapshot) -> Markup:
    """How far it is, what is spent, and when it will be done. Times go on by themselves on a live
    page, from what the attributes say.
    """
    budget, spent = table(snapshot.meta.get("budget")), spending(snapshot)
    started, last = number(snapshot.meta.get("started")), _last(snapshot)
    lines = [
        _spent("Ideas", spent["ideas"], number(budget.get("ideas")), wording.count),
        _spent("Cost", spent["cost"], number(budget.get("cost")), wording.figure),
        _spent("Tokens", spent["tokens"], number(budget.get("tokens")), wording.count),
        _spent("Time of runs", spent["seconds"], None, wording.duration),
    ]
    over = is_over(snapshot)
    if started is not None:
        until = (last or started) if over else snapshot.now
        clock = tag("span", wording.duration(max(0.0, until - started)),
                    data_since=None if over else started)  # fmt: skip
        limit = number(budget.get("seconds"))
        of = f" of {wording.duration(limit)}" if limit else ""
        lines.append(_fact("Since the start", [clock, of]))
    if not over and (left := seconds_left(snapshot)) is not None:
        end = snapshot.now + left
        lines.append(_fact("To go, about", tag("span", wording.duration(left), data_until=end)))
    if last is not None and not over:
        ago = wording.duration(max(0.0, snapshot.now - last))
        lines.append(_fact("Last change", [tag("span", ago, data_since=last), " ago"]))
    elif over:
        lines.append(_fact("The search", "has ended"))
    return tag("dl", lines, class_="progress")


def _fact(name: str, value: Any, bar: Markup | None = None) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value, bar))


def _spent(name: str, value: float, limit: float | None, form: Any) -> Markup | None:
    if not value and not limit:
        return None
    if not limit or limit <= 0 or not math.isfinite(limit):
        return _fact(name, form(value))
    bar = tag("progress", value=min(value, limit), max=limit, aria_label=f"{name} spent")
    return _fact(name, f"{form(value)} of {form(limit)}", bar)


def _last(snapshot: Snapshot) -> float | None:
    times = (time for row in snapshot.rows for time in (row.finished, row.created))
    return max((time for time in times if time is not None), default=None)


# States


def states(snapshot: Snapshot) -> Markup:
    """Every idea is in one; each leads to its rows of the table."""
    counts = counted(snapshot)
    total = sum(counts.values()) or 1
    at, bars = 0.0, []
    for state, count in counts.items():
        width = 100 * count / total
        bars.append(tag("rect", x=at, y=0, width=width, height=10, class_=f"state-{state}"))
        at += width
    chips = [
        tag("li", tag("button", tag("i", class_="mark"), tag("span", state.replace("_", " ")), " ",
                      tag("b", f"{count:,}"), type="button", data_state=state,
                      class_=f"chip state-{state}"))
        for state, count in counts.items()
    ]  # fmt: skip
    bar = tag("svg", bars, viewBox="0 0 100 10", preserveAspectRatio="none", class_="states",
              aria_hidden="true")  # fmt: skip
    return tag("div", bar, tag("ul", chips, class_="chips"))


# The promotion


def verdict(snapshot: Snapshot, compared: Comparison) -> Markup | None:
    """What the search said at its end, and the runs on the splits that it never looked at."""
    said = snapshot.meta.get("verdict")
    retested = sorted({found.idea for found in snapshot.retests if found.idea != 0})
    if not said and not retested:
        return None
    shown = _retests(snapshot, retested, compared.decimals) if retested else None
    return tag("div", _said(said), shown)


def _said(said: Any) -> list[Markup]:
    if isinstance(said, str):
        return [tag("p", plain.line(said, 600), class_="said")]
    facts = [
        tag("div", tag("dt", plain.line(name.replace("_", " "), 60)), tag("dd", _value(value)))
        for name, value in table(said).items()
        if not isinstance(value, dict | list)
    ]
    return [tag("dl", facts, class_="facts-list")] if facts else []


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return score(number(value)) if isinstance(value, int | float) else plain.line(value, 600)


def _retests(snapshot: Snapshot, retested: list[int], decimals: int | None) -> Markup:
    by_id = {row.id: row for row in snapshot.rows}
    sign = -1 if snapshot.maximize else 1
    ordered = sorted(
        (by_id[id] for id in retested if id in by_id),
        key=lambda row: (row.score is None, sign * (row.score or 0.0)),
    )
    first = [by_id[0]] if 0 in by_id else []
    lines = [[_name(row), *_over_splits(snapshot, row, decimals)] for row in [*first, *ordered]]
    return rows(["Idea", *SPLITS], lines, "Scores on the splits")


def _name(row: Row) -> Markup:
    return tag("a", f"#{row.id} ", tag("bdi", row.title or row.kind), href=f"#idea={row.id}")


def _over_splits(snapshot: Snapshot, row: Row, decimals: int | None) -> list[str]:
    """A mean, its standard error, and how many runs it is of."""
    made = []
    for split in SPLITS:
        scores = snapshot.scores(row.id, split)
        mean, error = mean_and_error(scores)
        if mean is None and split == "search":
            mean = row.score
        spread = f" ± {score(error, decimals)}" if error is not None else ""
        runs = f" ({len(scores)})" if len(scores) > 1 else ""
        made.append(f"{score(mean, decimals)}{spread}{runs}")
    return made
