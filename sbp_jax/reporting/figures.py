"""The report's figures as plain data, so that the page's and the PNGs' show the same.

Each function makes one of the results, or None where they have nothing for it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sbp_jax.reporting import wording
from sbp_jax.reporting.wording import mean, number


class Style(NamedTuple):
    """Told apart by dashes and markers as well as by colour; legible on white and on black."""

    light: str
    dark: str
    dash: tuple[int, ...]
    marker: str


STYLES = (
    Style("#1f5fbf", "#6ea8fe", (), "circle"),
    Style("#62676d", "#a3abb3", (2, 3), "square"),
    Style("#8a5a2b", "#d6a56f", (7, 3, 2, 3), "square"),
    Style("#1d7a4f", "#5cc491", (9, 4), "diamond"),
    Style("#b0387f", "#f08bc3", (1, 4), "up"),
    Style("#a85200", "#ffab5c", (5, 3), "down"),
    Style("#6a4fb3", "#b7a3f5", (12, 3, 2, 3, 2, 3), "square"),
    Style("#0b7285", "#4fc3d7", (14, 3), "circle"),
    Style("#b42318", "#ff8a80", (3, 2), "up"),
    Style("#5f6b00", "#c3cf52", (6, 2, 1, 2), "diamond"),
)
_ARM_STYLES = (
    "sbp", "baseline", "tuned_baseline", "oracle", "random_pairs", "unconditional",
    "longer_baseline", "tuned_sbp", "sbp_round2", "tuned_oracle",
)  # fmt: skip
IN_PLACE = "In place of SBP, against repetition"
_STAGE_STYLES = {"pretrain": 0, "pair": 9, "tune": 5, "synthesize": 6, "evaluate": 1}


@dataclass(frozen=True)
class Line:
    label: str
    style: int  # number in STYLES
    x: list[float]
    y: list[float]
    low: list[float]  # of the seeds; empty with one
    high: list[float]


@dataclass(frozen=True)
class Lines:
    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    top: float | None = None  # what lies above it is not drawn
    note: str = ""


@dataclass(frozen=True)
class Interval:
    label: str
    style: int
    value: float
    low: float | None
    high: float | None
    group: str = ""  # a heading above the first of each


@dataclass(frozen=True)
class Intervals:
    title: str
    x_label: str
    rows: list[Interval]


@dataclass(frozen=True)
class Part:
    label: str
    style: int
    value: float
    text: str


@dataclass(frozen=True)
class Bars:
    title: str
    rows: list[tuple[str, list[Part], str]]  # label, parts, text at the end


Figure = Lines | Intervals | Bars


def figures(results: dict[str, Any]) -> dict[str, Figure]:
    """Under the names of their files."""
    made = {name: make(results) for name, make in _FIGURES.items()}
    return {name: figure for name, figure in made.items() if figure}


def get(value: Any, *path: str) -> Any:
    """What lies deeper in nested dicts; None where there is nothing."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def arms(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Runs by arm, those without any left out."""
    found = {name: dicts(runs) for name, runs in table(results.get("arms")).items()}
    return {name: runs for name, runs in found.items() if runs}


def numbers(entries: Iterable[Any], *path: str) -> list[float]:
    found = (number(get(entry, *path)) for entry in entries)
    return [value for value in found if value is not None]


def arm_style(name: str) -> int:
    if name in _ARM_STYLES:
        return _ARM_STYLES.index(name)
    return sum(name.encode("utf-8", "replace")) % len(STYLES)


def curve(runs: list[Any], label: str, style: int) -> Line | None:
    """Mean, lowest and highest of several runs at the steps that all of them have."""
    seeds = [
        {step: loss for entry in dicts(run) if (step := number(entry.get("step"))) is not None
         and (loss := number(entry.get("loss"))) is not None}
        for run in runs
    ]  # fmt: skip
    seeds = [seed for seed in seeds if seed]
    if not seeds:
        return None
    steps = sorted(set.intersection(*map(set, seeds)))
    values = [[seed[step] for seed in seeds] for step in steps]
    several = len(seeds) > 1
    return Line(
        label,
        style,
        steps,
        [sum(at) / len(at) for at in values],
        [min(at) for at in values] if several else [],
        [max(at) for at in values] if several else [],
    )


def losses(results: dict[str, Any]) -> Lines | None:
    lines = [
        line
        for name, runs in arms(results).items()
        if (line := curve([r.get("validation_losses") for r in runs], *named(name))) and line.x
    ]
    if not lines or max(len(line.x) for line in lines) < 2:
        return None
    top = _top(lines)
    highest = max(y for line in lines for y in line.high or line.y)
    notes = []
    if any(line.high for line in lines):
        notes.append("Lines are means, bands go from the lowest to the highest seed.")
    if highest > top:
        notes.append(f"The beginning, up to {wording.figure(highest)}, lies above the chart.")
    return Lines(
        "Validation loss over training",
        "training step",
        "nats a token",
        lines,
        top if highest > top else None,
        " ".join(notes),
    )


def _top(lines: list[Line]) -> float:
    """Where the first third of each training has come to: what follows is what there is to see."""
    late = [
        y
        for line in lines
        for x, y in zip(line.x, line.high or line.y, strict=True)
        if 3 * (x - line.x[0]) >= line.x[-1] - line.x[0]
    ]
    lowest = min(y for line in lines for y in line.low or line.y)
    return max(late) + 0.1 * (max(late) - lowest)


def named(arm: str) -> tuple[str, int]:
    return wording.arm(arm), arm_style(arm)


def gap(results: dict[str, Any]) -> Intervals | None:
    found = table(results.get("gap_recovered"))
    against = (
        ("Against repetition", "baseline", found),
        ("Against tuned repetition", "tuned_baseline", found.get("tuned_baseline")),
        ("Against longer repetition", "longer_baseline", found.get("longer_baseline")),
        ("All three tuned", "tuned_sbp", found.get("tuned")),
    )
    rows = [
        _interval(label, arm_style(arm if arm == "tuned_sbp" else "sbp"), share, "SBP")
        for label, arm, share in against
    ]
    rows += [
        _interval(*named(arm), share, IN_PLACE)
        for arm, share in table(found.get("controls")).items()
    ]
    made = [row for row in rows if row]
    title = "Fraction of the gap to the oracle that is recovered"
    return Intervals(title, "0% is the baseline's loss, 100% the oracle's", made) if made else None


def _interval(label: str, style: int, share: Any, group: str = "") -> Interval | None:
    value = number(get(share, "value"))
    if value is None:
        return None
    low, high = number(get(share, "low")), number(get(share, "high"))
    return Interval(label, style, value, low, high, group)


def synthesizer(results: dict[str, Any]) -> Lines | None:
    seeds = dicts(results.get("synthesizer"))
    true = curve([seed.get("losses") for seed in seeds], "after its own d1", 0)
    if not true or len(true.x) < 2:
        return None
    shuffled = [
        [{**loss, "loss": loss.get("shuffled_loss")} for loss in dicts(seed.get("losses"))]
        for seed in seeds
    ]
    other = curve(shuffled, "after another d1", 4)
    note = "Of the pairs held out; d2's are documents that no training has seen."
    return Lines(
        "Loss on d2 while the synthesizer is tuned",
        "tuning step",
        "nats a token",
        [true, other] if other else [true],
        note=note,
    )


def _filters(title: str, counts: Any) -> Bars | None:
    values = {k: v for k, x in table(counts).items() if (v := number(x)) is not None and v >= 0}
    whole = max(values.values(), default=0.0)
    rows = [
        (
            wording.words(name),
            [Part(wording.words(name), 0, value, "")],
            f"{wording.count(value)} ({_share(value / whole)})" if whole else wording.count(value),
        )
        for name, value in values.items()
    ]
    return Bars(title, rows) if rows else None


def _share(value: float) -> str:
    if 0 < value < 5e-4:
        return "below 0.1%"
    return wording.percent(value, 0 if value == 0 or value >= 0.1 else 1)


def pairing(results: dict[str, Any]) -> Bars | None:
    return _filters("Pairs: what each filter took", get(results, "pairing", "counts"))


def synthesis(results: dict[str, Any]) -> Bars | None:
    return _filters(
        "Synthetic documents: what each filter took", get(results, "synthesis", "counts")
    )


def _stages(
    results: dict[str, Any], field: str, title: str, form: Callable[[float | None], str]
) -> Bars | None:
    """Means over seeds; each row has what was spent for that arm first."""
    spent: dict[str, dict[str, float]] = {}
    seeds: dict[str, set[Any]] = {}
    for entry in dicts(results.get("stages")):
        value = number(entry.get(field))
        if value is not None and value >= 0:
            name, stage = str(entry.get("arm")), str(entry.get("stage"))
            stages = spent.setdefault(name, {})
            stages[stage] = stages.get(stage, 0.0) + value
            seeds.setdefault(name, set()).add(str(entry.get("seed")))
    rows = []
    for name, stages in spent.items():
        parts = []
        order = [*wording.STAGES, *stages]
        for stage, whole in sorted(stages.items(), key=lambda item: order.index(item[0])):
            value = whole / len(seeds[name])
            label = wording.STAGES.get(stage, wording.words(stage))
            style = _STAGE_STYLES.get(stage, arm_style(stage))
            parts.append(Part(label, style, value, form(value)))
        rows.append((wording.arm(name), parts, form(sum(part.value for part in parts))))
    return Bars(title, rows) if any(p.value for _, parts, _ in rows for p in parts) else None


def flops(results: dict[str, Any]) -> Bars | None:
    return _stages(results, "flops", "FLOPs per arm and stage", wording.power)


def wall_time(results: dict[str, Any]) -> Bars | None:
    return _stages(results, "wall_s", "Wall time per arm and stage", wording.duration)


def consumed(results: dict[str, Any]) -> Bars | None:
    rows = []
    for name, runs in arms(results).items():
        sources = dict.fromkeys(s for run in runs for s in table(run.get("consumed")))
        parts = []
        for number_, source in enumerate(sources):
            share = mean(numbers(runs, "consumed", source, "share"))
            passes = mean(numbers(runs, "consumed", source, "passes"))
            if share is None or share < 0:
                continue
            text = wording.percent(share)
            if passes is not None:
                text += f", {passes:.1f} passes"
            style = {"real": 3, "synthetic": 0}.get(source, (7, 5, 6, 9)[number_ % 4])
            parts.append(Part(wording.words(source), style, share, text))
        if parts:
            rows.append((wording.arm(name), parts, ""))
    return Bars("What each arm has read: share of its training tokens", rows) if rows else None


def rounds(results: dict[str, Any]) -> Intervals | None:
    found = dicts(results.get("rounds"))
    rows = [
        _interval(f"Round {entry.get('round', '')}", 0, entry.get("gap_recovered"))
        for entry in found
    ]
    return _several("Fraction of the gap recovered, by round", rows)


def sweep(results: dict[str, Any]) -> Intervals | None:
    found = dicts(results.get("sweep"))
    rows = [
        _interval(settings(entry.get("settings")), 0, entry.get("gap_recovered")) for entry in found
    ]
    return _several("Fraction of the gap recovered, by setting", rows)


def _several(title: str, rows: list[Interval | None]) -> Intervals | None:
    made = [row for row in rows if row]
    label = "0% is the baseline's loss, 100% the oracle's"
    return Intervals(title, label, made) if len(made) > 1 else None


def settings(value: Any) -> str:
    """Short: dropout 0.2, weight decay 0.1"""
    fields = table(value).items()
    return ", ".join(f"{k.split('.')[-1].replace('_', ' ')} {v}" for k, v in fields)


_FIGURES: dict[str, Callable[[dict[str, Any]], Figure | None]] = {
    "gap_recovered": gap,
    "losses": losses,
    "synthesizer": synthesizer,
    "pairing": pairing,
    "synthesis": synthesis,
    "consumed": consumed,
    "flops": flops,
    "wall_time": wall_time,
    "rounds": rounds,
    "sweep": sweep,
}
NAMES = tuple(_FIGURES)
