"""An environment for research: what it shows, and what an idea is worth in it.

It is a folder with env.toml, the candidate's `code/`, perhaps `data/`, and a locked `eval/`;
docs/research_environments.md walks through one.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from research_env import toml_table, tree
from research_env.sandbox.protocol import Limits, Resource, SandboxFactory
from research_env.toml_table import Table
from sbp_jax.errors import UserError

SHIPPED = Path(__file__).parent / "envs"
SPLITS = ("search", "selection", "final")


class ResearchEnv(Protocol):
    def context(self) -> str:
        """Shown to the language model: describes the task."""
        ...

    def value(self, idea: str) -> float:
        """How good the idea is."""
        ...


class AIResearchEnv:
    """Ideas are changes of a codebase, and their value is what the changed code achieves."""

    def __init__(
        self,
        codebase: str,
        resource: Resource,
        sandbox_factory: SandboxFactory,
        judge: Callable[[str, Resource, SandboxFactory], float],
    ):
        self.codebase, self.resource, self.sandbox_factory = codebase, resource, sandbox_factory
        self._judge = judge

    def context(self) -> str:
        return self.codebase

    def value(self, code_diff: str) -> float:
        return self._judge(code_diff, self.resource, self.sandbox_factory)


@dataclass(frozen=True)
class Metric:
    name: str
    direction: str  # "maximize" or "minimize"
    low: float  # a score outside is invalid
    high: float

    @property
    def sign(self) -> int:
        """1 where more is better: sign * score is always to be maximized."""
        return 1 if self.direction == "maximize" else -1

    @property
    def worst(self) -> float:
        return -self.sign * math.inf

    def better(self, a: float, b: float) -> bool:
        return self.sign * a > self.sign * b

    def valid(self, score: float) -> bool:
        return math.isfinite(score) and self.low <= score <= self.high


@dataclass(frozen=True)
class Stage:
    command: str
    limits: Limits
    resource: Resource

    def with_wall_seconds(self, seconds: float) -> "Stage":
        return replace(self, limits=replace(self.limits, wall_seconds=seconds))


class Smoke(NamedTuple):
    """A run with a tiny budget, to fail early."""

    environment: Mapping[str, str]
    wall_seconds: float


@dataclass(frozen=True)
class Environment:
    name: str
    description: str
    folder: Path
    size: str
    metric: Metric
    editable: tuple[str, ...]  # globs in code/; all else there is protected
    run: Stage
    predict: Stage | None
    prepare: Stage | None  # with `predict` only
    score: Stage
    splits: Mapping[str, str]  # split -> the folder of eval/splits that SPLIT names
    seeds: Mapping[str, int]  # split -> runs of a candidate there
    smoke: Smoke | None
    environment: Mapping[str, str]  # variables of every stage
    data: Path | None
    labels: Path  # holds a folder for each split, or none
    pinned: Mapping[str, tree.Stamp]  # of code/ and eval/, when the environment was loaded
    fingerprint: str  # of the above: what scores may be compared with each other

    @property
    def code(self) -> Path:
        return self.folder / "code"

    @property
    def eval(self) -> Path:
        return self.folder / "eval"

    @property
    def smoke_pays(self) -> bool:
        """Whether a run with a tiny budget, in front of each, is short beside the run."""
        smoke = self.smoke
        return smoke is not None and 2 * smoke.wall_seconds <= self.run.limits.wall_seconds

    def labels_of(self, split: str) -> Path | None:
        """What the harness alone may read of a split; a synthetic task may have no such folder."""
        found = self.labels / self.splits[split]
        return found if found.is_dir() else None

    def files(self, editable: bool) -> list[str]:
        """Paths in code/ that a candidate may change, or may not."""
        return [p for p in tree.listed(self.code) if tree.matches(p, self.editable) == editable]

    def context(self) -> str:
        """Everything that a researcher may know, without limit of length."""
        metric = self.metric
        parts = [
            self.description.strip(),
            f"Metric: {metric.name}, to {metric.direction}; valid from {metric.low:g} to "
            f"{metric.high:g}. Limits of a run: {self.run.limits.wall_seconds:g} seconds, "
            f"{self.run.limits.memory_mb} MB, cores {self.run.resource.cores}, GPUs "
            f"{self.run.resource.gpus}.",
            f"Files that may be changed: {', '.join(self.editable)}. "
            f"Not these: {', '.join(self.files(editable=False)) or 'none'}.",
        ]
        for path in self.files(editable=True):
            parts.append(f"{path}\n```\n{(self.code / path).read_text(errors='replace')}\n```")
        return "\n\n".join(parts) + "\n"


def seed_of(search_seed: int, idea: int, split: str, index: int) -> int:
    """Fresh for every run: ideas and baseline share none, so that their scores are independent."""
    key = f"{search_seed}/{idea}/{split}/{index}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:4], "big") >> 1


def load(name_or_path: str, size: str = "laptop") -> Environment:
    """The environment of this name (one of ours) or folder, checked; a mistake is a `UserError`."""
    given = Path(name_or_path).expanduser()
    shipped = SHIPPED / name_or_path
    named = re.fullmatch(r"[a-z0-9_]+", name_or_path) and shipped.is_dir()
    folder = shipped if named else given.absolute()
    if not folder.is_dir():
        ours = sorted(p.parent.name for p in SHIPPED.glob("*/env.toml"))
        raise UserError(f"{name_or_path}: no such environment; a folder, or one of {ours}")
    top = toml_table.read(folder / "env.toml", "sizes", size)
    name, description = top.text("name"), top.text("description")
    run = _stage(top, "run")
    paths = top.table("paths", required=True)
    editable = _editable(paths)
    predict = _stage(top, "predict") if "predict" in top else None
    prepare = _stage(top, "prepare", "python prepare.py") if predict else None
    score = _stage(top, "score", "python score.py")
    remedy = paths.text("prepare", "")
    data = _place(paths, "data", folder, folder / "data", remedy)
    labels = _place(paths, "splits", folder, folder / "eval" / "splits", remedy)
    paths.done()
    metric, splits, seeds = _metric(top), _splits(top), _seeds(top)
    smoke, environment = _smoke(top), top.environment("environment")
    top.done()
    for part in ("code", "eval"):
        if not (folder / part).is_dir():
            raise UserError(f"{folder / part}: is missing; see docs/research_environments.md")
        if odd := tree.irregular(folder / part):
            raise UserError(f"{folder / part / odd}: is a link or no regular file; copy the file")
    if prepare and prepare.command == "python prepare.py":
        _exists(folder / "eval" / "prepare.py", "[predict] needs it, to write the inputs")
    if score.command == "python score.py":
        _exists(folder / "eval" / "score.py", "it prints the score")
    pinned = tree.stamps(folder, ("code", "eval"))
    words = repr((size, run, predict, prepare, score, splits, environment, metric, editable))
    digests = sorted((path, stamp.sha256) for path, stamp in pinned.items())
    # Of tens of gigabytes the sizes must do.
    sizes = [(p, (place / p).stat().st_size) for place in (data, labels) for p in _below(place)]
    fingerprint = hashlib.sha256(f"{words}{digests}{sizes}".encode()).hexdigest()
    made = Environment(
        name=name,
        description=description,
        folder=folder,
        size=size,
        metric=metric,
        editable=editable,
        run=run,
        predict=predict,
        prepare=prepare,
        score=score,
        splits=splits,
        seeds=seeds,
        smoke=smoke,
        environment=environment,
        data=data if data.is_dir() else None,
        labels=labels,
        pinned=pinned,
        fingerprint=fingerprint,
    )
    if not made.files(editable=True):
        raise UserError(f"{folder / 'env.toml'}: paths.editable: {list(editable)} match no file")
    return made


def _stage(top: Table, key: str, default: str = "") -> Stage:
    table = top.table(key, required=not default)
    command = table.text("command", default) if default else table.text("command")
    cores, gpus = table.whole("cores", 1, least=1), table.whole("gpus", 0)
    limits = _limits(table.table("limits"))
    table.done()
    return Stage(command, limits, Resource(cores, gpus))


def _limits(table: Table) -> Limits:
    given: dict[str, Any] = {}
    for field in fields(Limits):
        if isinstance(field.default, float):
            given[field.name] = table.number(field.name, field.default, least=0.0)
        else:
            given[field.name] = table.whole(field.name, cast(int, field.default), least=1)
    if given["wall_seconds"] == 0:
        table.refuse("wall_seconds", "must be more than 0")
    table.done()
    return Limits(**given)


def _metric(top: Table) -> Metric:
    table = top.table("metric", required=True)
    name = table.text("name")
    direction = table.choice("direction", ("maximize", "minimize"))
    bounds = table.numbers("valid", 2)
    if not bounds[0] < bounds[1]:
        table.refuse("valid", f"the first must be less than the second, not {list(bounds)}")
    table.done()
    return Metric(name, direction, *bounds)


def _editable(paths: Table) -> tuple[str, ...]:
    globs = paths.texts("editable")
    for glob in globs:
        if glob.startswith("/") or ".." in glob.split("/") or not glob.isprintable():
            paths.refuse("editable", f"{glob!r}: must be a path or glob inside code/")
    return globs


def _place(paths: Table, key: str, folder: Path, default: Path, remedy: str) -> Path:
    """A folder that may lie outside the environment's, since large data does."""
    given = paths.text(key, "")
    if not given:
        return default
    place = folder / Path(given).expanduser()
    if not place.is_dir():
        how = f"make it by: {remedy}" if remedy else "make that folder"
        paths.refuse(key, f"{place}: no such folder; {how}")
    return place


def _splits(top: Table) -> dict[str, str]:
    table = top.table("splits")
    splits = {split: table.text(split, split) for split in SPLITS}
    for split, value in splits.items():
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", value) or value in (".", ".."):
            table.refuse(split, f"must be a plain name, not {value!r}")
    if len(set(splits.values())) < len(SPLITS):
        table.refuse("final", f"the three splits must differ, not {list(splits.values())}")
    table.done()
    return splits


def _seeds(top: Table) -> dict[str, int]:
    table = top.table("seeds")
    usual = {"search": 1, "selection": 3, "final": 3}
    seeds = {split: table.whole(split, usual[split], least=1) for split in SPLITS}
    for split in SPLITS[1:]:
        if seeds[split] < 2:
            table.refuse(split, "must be 2 or more: one run cannot confirm another")
    table.done()
    return seeds


def _smoke(top: Table) -> Smoke | None:
    if "smoke" not in top:
        return None
    table = top.table("smoke")
    wall_seconds = table.number("wall_seconds", least=0.01)
    return Smoke(table.variables(but=("wall_seconds",)), wall_seconds)


def _below(place: Path) -> list[str]:
    return tree.listed(place) if place.is_dir() else []


def _exists(file: Path, why: str) -> None:
    if not file.is_file():
        raise UserError(f"{file}: is missing: {why}; see docs/research_environments.md")
