"""What a search was asked for, and what follows; some of it may change from start to start."""

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from research_env import tree as trees
from research_env.bank import LOCK, NAME, Bank
from research_env.env import Environment, load
from research_env.patching import patch
from research_env.researcher.interface import Researcher
from research_env.researcher.mutator import Mutator
from research_env.running import inline
from research_env.running.campaign import DONE
from research_env.running.inventory import Inventory, elsewhere, of_this_machine
from research_env.running.plan import Plan
from research_env.running.scheduler import Task
from research_env.sandbox import factory
from sbp_jax import cli, files
from sbp_jax.config import Experiment
from sbp_jax.errors import UserError

INLINE, BUBBLEWRAP, SUBPROCESS = "inline", "bubblewrap", "subprocess"
CLUSTERS = ("slurm", "ray")
MUTATOR = "mutator"
_CLUSTER_SLOTS = 16  # runs that wait for a cluster at a time
_SLACK_SECONDS = 300.0  # of the harness itself, beside all limits of a run
# Of what a bank was begun with, the same command may change all but these.
_FIXED = ("size", "strategy", "engine", "seed")


@dataclass(frozen=True)
class Settings:
    env: str
    workdir: str
    size: str = "laptop"
    strategy: str = "evolution"
    ideas: int = 256
    engine: str = MUTATOR
    checkpoint: str = ""
    sandbox: str = ""
    unsafe: bool = False
    seed: int = 0
    slots: int = 0
    max_hours: float = 0.0
    max_cost: float = 0.0
    max_tokens: int = 0
    baseline_runs: int = 3
    top: int = 3
    repairs: int = 2
    command: tuple[str, ...] = ()  # the flags as they were given, for `resume`
    cwd: str = ""  # and where

    @property
    def folder(self) -> Path:
        return Path(self.workdir)


def environment_of(settings: Settings) -> Environment:
    if settings.unsafe and settings.sandbox != SUBPROCESS:
        raise UserError("--unsafe is of no use without --sandbox=subprocess")
    return load(settings.env, settings.size)


@contextlib.contextmanager
def only_one(workdir: Path) -> Iterator[None]:
    """One search per folder; its lock holds the process to signal."""
    lock = files.try_lock(workdir / LOCK)
    if lock is None:
        raise UserError(
            f"{workdir}: a search is going on there; python -m research_env.stop {workdir} ends it"
        )
    with lock:
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
        lock.flush()
        yield


@contextlib.contextmanager
def open_bank(settings: Settings, environment: Environment) -> Iterator[Bank]:
    """The folder's bank, which must be of this very search."""
    with Bank(settings.folder / NAME, write=True) as bank:
        now = {key: getattr(settings, key) for key in _FIXED}
        now |= {"env": environment.name, "fingerprint": environment.fingerprint}
        for key, value in now.items():
            before = bank.get(key, value)
            if before != value:
                what = "--env" if key in ("env", "fingerprint") else f"--{key}={value}"
                raise UserError(
                    f"{what}: the ideas in {settings.workdir} were scored with {key}={before}, and "
                    f"cannot be compared with those of {value}; take another --workdir"
                )
        if bank.get("phase") == DONE and settings.ideas > bank.get("settings", {}).get("ideas", 0):
            raise UserError(
                f"--ideas={settings.ideas}: {settings.workdir} has its verdict; the final split is "
                "looked at once only, so take another --workdir"
            )
        facts = {
            **now,
            "metric": environment.metric.name,
            "direction": environment.metric.direction,
            "sandbox": sandbox_of(settings, environment),
            "budget": _budget(settings),
            "settings": dataclasses.asdict(settings),
            "version": 1,
            "started": bank.get("started", time.time()),
        }
        with bank.at_once():
            for key, value in facts.items():
                bank.set(key, value)
        yield bank


def _budget(settings: Settings) -> dict[str, float]:
    seconds = settings.max_hours * 3600
    budget = {"ideas": settings.ideas, "seconds": seconds, "cost": settings.max_cost}
    return {key: value for key, value in budget.items() if value}


def sandbox_of(settings: Settings, environment: Environment) -> str:
    if settings.sandbox:
        return settings.sandbox
    return INLINE if environment.name == "synthetic" else BUBBLEWRAP


def task_of(settings: Settings, environment: Environment) -> tuple[Task, Inventory]:
    run = environment.run
    stages = [s for s in (environment.prepare, environment.predict, environment.score) if s]
    walls = [run.limits.wall_seconds, *(stage.limits.wall_seconds for stage in stages)]
    smoke = environment.smoke.wall_seconds if environment.smoke_pays and environment.smoke else 0.0
    sandbox = sandbox_of(settings, environment)
    if sandbox == INLINE:
        inline.judge_of(environment)  # what it or a sandbox cannot do shows now, in one line
    else:
        if sandbox == "ray" and not os.environ.get("RAY_ADDRESS"):
            raise UserError(
                "--sandbox=ray: RAY_ADDRESS is missing, and each run would start a Ray of its own; "
                "begin a cluster with `ray start --head` and name its host:port"
            )
        factory(sandbox, unsafe=settings.unsafe)
    task = Task(
        env=str(environment.folder),
        size=settings.size,
        sandbox=sandbox,
        unsafe=settings.unsafe,
        resource=run.resource,
        memory_mb=max(limits.memory_mb for limits in [run.limits, *(s.limits for s in stages)]),
        # A smoke run goes through all stages too. On a cluster, waiting for room has no limit.
        overdue_seconds=float("inf")
        if sandbox in CLUSTERS
        else smoke + 2 * sum(walls) + _SLACK_SECONDS,
    )
    if sandbox in CLUSTERS:
        return task, elsewhere(settings.slots or _CLUSTER_SLOTS)
    return task, of_this_machine(settings.slots)


def plan_of(settings: Settings) -> Plan:
    model = settings.engine != MUTATOR
    return Plan(
        seed=settings.seed,
        ideas=settings.ideas,
        max_hours=settings.max_hours,
        max_cost=settings.max_cost,
        baseline_runs=settings.baseline_runs,
        top=settings.top,
        repairs=settings.repairs,
        ahead=1 if model else 0,
        call=_experiment(settings).research.ideas if model else 1,
    )


def models_of(settings: Settings) -> tuple[str, ...]:
    """That a strategy may choose among."""
    if settings.engine == MUTATOR:
        return ("",)
    from research_env.researcher import opening

    return opening.names(settings.engine, _experiment(settings), settings.checkpoint or None)


@contextlib.contextmanager
def open_researcher(
    settings: Settings, environment: Environment, bank: Bank
) -> Iterator[Researcher]:
    if settings.engine == MUTATOR:
        if settings.max_tokens:
            raise UserError("--max_tokens caps a model's calls, and --engine=mutator makes none")
        yield _mutator(settings, environment)
        return
    from research_env.researcher import opening

    language = opening.open_language(
        settings.engine,
        _experiment(settings),
        settings.checkpoint or None,
        environment,
        str(settings.folder / "engine"),
        seed=settings.seed,
        max_tokens=settings.max_tokens or None,
        max_cost=settings.max_cost or None,
    )
    with contextlib.closing(language):
        bank.set("author", dict(language.record))
        yield language


def _experiment(settings: Settings) -> Experiment:
    if cli.CONFIG.value is None:
        raise UserError(
            f"--engine={settings.engine} needs --config, such as configs/laptop.py: its sections "
            "api, engine and research say which model answers, and how it is asked"
        )
    return cli.experiment()


def _mutator(settings: Settings, environment: Environment) -> Mutator:
    mutator = Mutator(sources_of(environment), settings.seed, lambda d: applied(environment, d))
    if not mutator.sites:
        raise UserError(
            f"{environment.folder}: the mutator finds no literal to edit in "
            f"{', '.join(environment.editable)}; --engine=api, vllm or jax asks a language model"
        )
    return mutator


def sources_of(environment: Environment) -> dict[str, str]:
    """The files that may be changed and hold text."""
    found = {}
    for path in environment.files(editable=True):
        with contextlib.suppress(UnicodeDecodeError):
            found[path] = (environment.code / path).read_text()
    return found


def applied(environment: Environment, diff: str) -> Mapping[str, str] | None:
    """The same files as a diff leaves them; None if it does not apply."""
    with tempfile.TemporaryDirectory(prefix="applied-") as name:
        work = Path(name)
        trees.copy(environment.code, work)
        if isinstance(patch.apply(work, diff, environment.editable), patch.PatchFailed):
            return None
        return {
            path: (work / path).read_text(errors="replace")
            for path in sources_of(environment)
            if (work / path).is_file()
        }
