"""The page's parts that are words and figures, as markup in which every text is escaped."""

import math
from statistics import fmean
from typing import Any

from research_env.bank import FINAL
from research_env.dashboard import plain, verdict
from research_env.dashboard.comparisons import Comparison
from research_env.dashboard.figures import counted, is_over, phase, seconds_left, spending, title
from research_env.dashboard.snapshot import Snapshot
from research_env.dashboard.wording import score
from sbp_jax.reporting import wording
from sbp_jax.reporting.figures import table
from sbp_jax.reporting.markup import Markup, tag
from sbp_jax.reporting.wording import number


def header(snapshot: Snapshot) -> Markup:
    meta = snapshot.meta
    facts = [plain.line(meta.get("size"), 40), plain.line(meta.get("strategy"), 60)]
    facts += [plain.line(meta.get(name), 60) for name in ("engine", "sandbox")]
    facts += [f"seed {meta['seed']}"] if isinstance(meta.get("seed"), int) else []
    return tag(
        "div",
        tag("h1", tag("bdi", title(snapshot))),
        tag("p", " · ".join(filter(None, facts)), class_="facts"),
    )


def headline(snapshot: Snapshot, compared: Comparison) -> Markup:
    """The one number, and whether there is reason to believe it."""
    decided, best, base = verdict.of(snapshot), snapshot.best(), compared.baseline

    def form(value: float | None) -> str:
        return score(value, compared.decimals)

    metric = plain.line(snapshot.meta.get("metric") or "score", 60)
    if best is None or best.score is None:
        waiting = "No idea has a score yet."
        told = f"The baseline's {metric} is {form(base)}." if base is not None else ""
        return _big(form(base), "baseline", waiting, tag("p", told, class_="caveat"))
    value, unit = best.score, metric
    promoted = [row for row in snapshot.ideas if decided and row.id == decided.promoted]
    if promoted and (scores := snapshot.scores(promoted[0].id, FINAL)):
        best, value, unit = promoted[0], fmean(scores), f"{metric} on the final split"
        base = fmean(snapshot.scores(0, FINAL) or [base or 0.0])
    elif compared.error:
        unit += f", {form(value - compared.error)} to {form(value + compared.error)}"
    said: list[Any] = [tag("a", f"#{best.id} ", tag("bdi", best.title), href=f"#idea={best.id}")]
    caveat = "" if promoted else "On the split that the search itself looks at. "
    if base is not None:
        gain = (value - base) * (1 if snapshot.maximize else -1)
        word = "better" if gain > 0 else "worse"
        share = f" ({wording.percent(abs(gain / base), 1)})" if base else ""
        said.append(f": {form(abs(gain))} {word} than the baseline's {form(base)}{share}.")
        caveat += "" if decided else _trust(gain, snapshot, compared)
    if decided:
        caveat += f"The referee: {decided.words}."
    return _big(form(value), unit, said, tag("p", caveat, class_="caveat"))


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


PHASES = {
    "search": "trying ideas",
    "selection": "the best again, fresh seeds",
    "final": "the final split",
    "done": "has ended",
}


def progress(snapshot: Snapshot) -> Markup:
    """How far it is, what is spent, and when it will be done. Times go on by themselves on a live
    page, from what the attributes say.
    """
    budget, spent = table(snapshot.meta.get("budget")), spending(snapshot)
    started, last = number(snapshot.meta.get("started")), _last(snapshot)
    over, now = is_over(snapshot), snapshot.now
    lines = [
        _fact("Phase", PHASES["done"] if over else PHASES.get(phase(snapshot), phase(snapshot))),
        _spent("Ideas", spent["ideas"], number(budget.get("ideas")), wording.count),
        _spent("Cost", spent["cost"], number(budget.get("cost")), wording.figure),
        _spent("Time", spent["wall_seconds"], number(budget.get("seconds")), wording.duration),
        _spent("Time of runs", spent["seconds"], None, wording.duration),
        _spent("Tokens", spent["tokens"], None, wording.count),
    ]
    if started is not None and not over and snapshot.running is not False:
        lines.append(_fact("Since the start", _clock(now - started, since=started)))
    if not over and (left := seconds_left(snapshot)) is not None:
        lines.append(_fact("To go, about", _clock(left, until=now + left)))
    if last is not None and not over:
        lines.append(_fact("Last change", [_clock(now - last, since=last), " ago"]))
    return tag("dl", lines, class_="progress")


def _clock(seconds: float, since: float | None = None, until: float | None = None) -> Markup:
    said = wording.duration(max(0.0, seconds))
    return tag("span", said, data_since=since, data_until=until)


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
