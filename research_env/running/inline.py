"""Ideas that are data: an environment whose changed settings are read, never run, needs no sandbox.

Only `synthetic` is of this kind. Its patches and protected paths are checked as everywhere.
"""

import ast
import importlib.util
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from research_env import tree
from research_env.env import SHIPPED, Environment
from research_env.outcome import Outcome, State
from research_env.patching import patch
from sbp_jax.errors import UserError

NAME = "synthetic"
SETTINGS = "settings.py"


def judge_of(environment: Environment) -> Callable[[Mapping[str, Any], Path], Outcome]:
    if environment.name != NAME:
        raise UserError(
            f"{environment.folder}: its code has to be run; choose a --sandbox, such as bubblewrap"
        )
    landscape = landscape_module()

    def judge(job: Mapping[str, Any], folder: Path) -> Outcome:
        start = time.monotonic()
        mean = float(environment.environment["MEAN_SECONDS"])
        if mean:
            time.sleep(random.Random(f"{job['run']}").expovariate(1 / mean))
        outcome = _judged(landscape, environment, job["diff"], job["split"], job["seed"])
        return Outcome(
            outcome.state, outcome.score, time.monotonic() - start, outcome.reason, outcome.log
        )

    return judge


def settings_of(source: str) -> dict[str, Any]:
    """Literals that are assigned at the top of a module."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def _judged(
    landscape: ModuleType, environment: Environment, diff: str, split: str, seed: int
) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="inline-") as name:
        work = Path(name)
        tree.copy(environment.code, work)
        applied = patch.apply(work, diff, environment.editable)
        if isinstance(applied, patch.PatchFailed):
            state = State.TAMPERED if applied.refused else State.PATCH_FAILED
            return Outcome(state, reason=applied.reason)
        if wrong := tree.violation(environment.code, work, environment.editable):
            return Outcome(State.TAMPERED, reason=wrong)
        source = (work / SETTINGS).read_text(errors="replace")
    return scored(landscape, source, environment.environment, split, seed)


def scored(
    landscape: ModuleType, source: str, variables: Mapping[str, str], split: str, seed: int
) -> Outcome:
    try:
        settings = settings_of(source)
    except (SyntaxError, ValueError, TypeError) as error:
        return Outcome(State.CRASHED, reason=str(error).splitlines()[0], log=str(error))
    try:
        score = landscape.measured(settings, split, seed, variables)
    except landscape.OutOfMemory as error:
        return Outcome(State.OUT_OF_MEMORY, reason=str(error))
    except landscape.Crashed as error:
        return Outcome(State.CRASHED, reason=str(error), log=str(error))
    return Outcome(State.OK, score)


def landscape_module() -> ModuleType:
    path = SHIPPED / NAME / "eval" / "landscape.py"
    spec = importlib.util.spec_from_file_location("landscape", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
