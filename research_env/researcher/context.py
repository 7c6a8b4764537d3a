"""What a model is shown: the task, the code, and what became of other ideas, as much as fits."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from research_env.bank import Bank, Idea
from research_env.env import Environment
from research_env.outcome import State
from research_env.researcher import quoting
from research_env.researcher.changes import Files, as_text
from research_env.researcher.interface import BASELINE, EXPLOIT, EXPLORE, FRESH, Want
from research_env.researcher.packing import ALWAYS, Piece, Section, pack

SHOWN = 100  # records of other ideas, at most
DIFF, IDEA, RECORD, REASON = 12_000, 6_000, 600, 300  # characters
# What is left out first has the least: other records, then code that may not be changed, ...
_OWN_CODE, _PARENTS_CHANGE, _OTHER_CODE, _RECORDS = 4e6, 3e6, 2e6, 1e6


class _Scale(NamedTuple):
    """By which scores are told."""

    sign: int
    baseline: float | None
    noise: float | None  # standard deviation of the baseline's runs


def for_ideas(
    env: Environment, code: Files, bank: Bank, want: Want, room: int, count: Callable[[str], int]
) -> str:
    """Ideas that are fresh are from the task alone: they know of no others."""
    scale = _scale(bank, env)
    parents = [idea for idea in map(bank.idea, want.parents) if idea.kind != BASELINE]
    builds = want.kind == EXPLOIT and bool(parents)
    changed = f", with the change of idea {parents[0].id}" if builds else ""
    sections = [_task(env), *_measured(scale), _code(env, code, changed, must=False)]
    if builds:
        sections.append(_parents(scale, parents))
        sections.append(_changes(parents))
    if want.kind != FRESH:
        sections.append(_records(scale, _others(bank, want, parents)))
    return pack(sections, room, count).text


def for_change(
    env: Environment,
    code: Files,
    others: Sequence[Idea],
    room: int,
    count: Callable[[str], int],
) -> str:
    """The code as the change finds it, and the changes of other ideas that it may take over."""
    sections = [_task(env), _code(env, code, "", must=True), _changes(others)]
    return pack(sections, room, count).text


def _task(env: Environment) -> Section:
    metric, limits, resource = env.metric, env.run.limits, env.run.resource
    protected = env.files(editable=False)
    rules = [
        f"Score: {metric.name}, to {metric.direction}; valid from {metric.low:g} to "
        f"{metric.high:g}.",
        f"A run has {limits.wall_seconds:g} seconds, {limits.memory_mb:,} MB of memory, "
        f"{resource.cores} cores and {resource.gpus} GPUs; it starts by: {env.run.command}",
        f"May be changed: {', '.join(env.editable)}",
        f"May not be changed: {', '.join(protected[:50]) or 'nothing else is there'}",
    ]
    return Section("The task", [Piece("task", "\n".join([env.description.strip(), "", *rules]))])


def _measured(scale: _Scale) -> list[Section]:
    """The baseline, and how much of a difference is chance."""
    if scale.baseline is None:
        return []
    text = f"The code as it is scores {scale.baseline:.6g}."
    if scale.noise is not None:
        text += (
            f" Repeated runs of it differ with a standard deviation of {scale.noise:.3g}: a gain "
            "of less than twice that may be chance."
        )
    return [Section("Baseline", [Piece("baseline", text)])]


def _code(env: Environment, code: Files, changed: str, must: bool) -> Section:
    own = set(env.files(editable=True))
    pieces = []
    for place, path in enumerate(sorted(code, key=lambda path: (path not in own, path))):
        editable = path in own or not (env.code / path).exists()
        text = as_text(code[path])
        if text is None:
            continue
        value = ALWAYS if must and editable else (_OWN_CODE if editable else _OTHER_CODE) - place
        shown = quoting.guarded(quoting.line(path, 200))  # a candidate may have named it
        name = shown if editable else f"{shown} (may not be changed)"
        pieces.append(Piece(shown, quoting.block(name, text), value))
    return Section(f"The code{changed}", pieces)


def _parents(scale: _Scale, parents: Sequence[Idea]) -> Section:
    rows = [Piece(f"idea {i.id}", _row(scale, i, IDEA)) for i in parents]
    return Section("To build on", rows, lambda text: quoting.block("records", text))


def _changes(ideas: Sequence[Idea]) -> Section:
    """The first parent's is worth the most."""
    pieces = []
    for place, idea in enumerate(ideas):
        diff = quoting.plain(idea.diff, DIFF)
        text = quoting.block(f"change of idea {idea.id}", diff)
        pieces.append(Piece(f"change of idea {idea.id}", text, _PARENTS_CHANGE - place))
    return Section("Their changes of the original code", pieces)


def _records(scale: _Scale, ideas: Sequence[tuple[Idea, float]]) -> Section:
    rows = [
        Piece(f"idea {i.id}", _row(scale, i, RECORD), value)
        for i, value in sorted(ideas, key=lambda pair: pair[0].id)
    ]
    title = "Records of experiments"
    return Section(title, rows, lambda text: quoting.block("records, a line each", text))


def _others(bank: Bank, want: Want, parents: Sequence[Idea]) -> list[tuple[Idea, float]]:
    """With what each is worth: the best and the newest the most, in turn."""
    shown = {idea.id for idea in parents}
    if want.kind == EXPLORE and shown:  # the strategy has chosen
        known = list(parents)
    else:
        known = [i for i in bank.ended() if i.kind != BASELINE and i.id not in shown]
        if want.kind == EXPLORE and len(known) > SHOWN:
            known = random.Random(f"explore {want.wish}").sample(known, SHOWN)
    up = 1 if bank.direction == "maximize" else -1
    ran = sorted(
        (i for i in known if i.score is not None), key=lambda i: (-up * (i.score or 0.0), i.id)
    )
    newest = sorted(known, key=lambda i: (-(i.finished or 0.0), -i.id))
    value: dict[int, float] = {}
    for step, order in ((0.0, ran), (0.5, newest)):
        for rank, idea in enumerate(order):
            value[idea.id] = max(value.get(idea.id, 0.0), _RECORDS - rank - step)
    return sorted(((i, value[i.id]) for i in known), key=lambda pair: -pair[1])[:SHOWN]


def _row(scale: _Scale, idea: Idea, most: int) -> str:
    values: dict[str, object] = {
        "id": idea.id,
        "title": quoting.line(idea.title, 120),
        "idea": quoting.plain(idea.text, most),
        "state": idea.state,
    }
    if idea.parents and idea.kind == EXPLOIT:
        values["built on"] = list(idea.parents)
    if idea.score is not None:
        values["score"] = float(f"{idea.score:.6g}")
        if scale.baseline is not None:
            gain = scale.sign * (idea.score - scale.baseline)
            told = f"{'better' if gain > 0 else 'worse'} by {abs(gain):.3g}"
            chance = scale.noise is not None and abs(gain) <= 2 * scale.noise
            values["against baseline"] = f"{told}, which may be chance" if chance else told
    if idea.reason and idea.state != State.OK:
        values["reason"] = quoting.line(idea.reason, REASON)
    return quoting.row(values)


def _scale(bank: Bank, env: Environment) -> _Scale:
    first = bank.idea(0)
    baseline = first.score if first.kind == BASELINE else None
    noise = bank.get("noise")
    return _Scale(env.metric.sign, baseline, noise if isinstance(noise, int | float) else None)
