"""What a study is to do, and what could only fail later is refused."""

import dataclasses
from pathlib import Path
from typing import Any

from entigraph.arms.stages import RAW, Given
from entigraph.generation.methods import METHODS
from sbp_jax import config, files
from sbp_jax.config import Experiment
from sbp_jax.errors import UserError


def chosen_methods(experiment: Experiment) -> list[str]:
    methods = [m.strip() for m in experiment.study.methods.split(",") if m.strip()]
    if unknown := [m for m in methods if m not in (RAW, *METHODS)]:
        raise UserError(
            f"config.study.methods: {unknown[0]!r} is none; there are {RAW}, {', '.join(METHODS)}"
        )
    if not methods or len(set(methods)) < len(methods):
        raise UserError("config.study.methods names no method, or one twice")
    return methods


def chosen_shares(experiment: Experiment) -> list[float]:
    text = experiment.study.shares
    try:
        shares = sorted({float(part) for part in text.split(",")})
    except ValueError as error:
        raise UserError(f"config.study.shares is {text!r}; write it as '0.25,0.5,1'") from error
    if not 0 < shares[0] <= shares[-1] == 1:
        raise UserError(f"config.study.shares is {text!r}; they lie above 0, and the last is 1")
    return shares


def refuse(experiment: Experiment, given: Given) -> None:
    """What could only fail later."""
    if bool(given.library) != bool(given.questions):
        raise UserError("--input and --questions belong together: the library, and what is asked")
    if given.library and not given.model:
        raise UserError("--init_from is missing: the model that is to learn the library of --input")
    if given.model and not given.library:
        raise UserError(
            "--init_from: the toy world has a model of its own; name --input and --questions"
        )
    if not given.library and experiment.data.input != "toyworld":
        raise UserError(
            f"config.data.input={experiment.data.input}: without --input the study is about the "
            "toy world, config.data.input=toyworld"
        )


def identity(experiment: Experiment, given: Given) -> dict[str, Any]:
    shown = dataclasses.asdict(given)
    shown.pop("limits")  # which may be raised
    return {"config": config.to_json(experiment), "given": shown}


def refuse_other_study(experiment: Experiment, given: Given, workdir: Path) -> None:
    """A workdir is of one study; methods and shares may be added to it."""
    if not (workdir / "study.json").exists():
        return
    recorded = files.read_record(workdir / "study.json", "config", "given")
    changed = [
        line
        for line in config.differences(recorded["config"], experiment)
        if not line.startswith(("config.study.methods", "config.study.shares"))
    ]
    new = identity(experiment, given)["given"]
    changed += [f"{k}: {recorded['given'].get(k)!r} -> {new[k]!r}" for k in new
                if recorded["given"].get(k) != new[k]]  # fmt: skip
    if changed:
        raise UserError(
            f"{workdir} belongs to another study ({'; '.join(changed)}); use another --workdir"
        )


def write_identity(experiment: Experiment, given: Given, workdir: Path) -> None:
    files.write_json(workdir / "study.json", identity(experiment, given))
