"""What a job on a cluster does: opens a sandbox on its node and runs one program in it.

`python -m research_env.sandbox.job FOLDER`: reads FOLDER/order.json and FOLDER/work, leaves
FOLDER/out and, last, FOLDER/result.json. When its input ends, so does the program.
"""

import base64
import dataclasses
import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research_env.sandbox import factory
from research_env.sandbox.protocol import Ended, Executed, Limits, Resource, Sandbox
from research_env.sandbox.staged import Left, Program, ended, run_once
from sbp_jax.errors import UserError

ORDER, BEGUN, RESULT = "order.json", "begun", "result.json"


def save(
    folder: Path,
    inner: str,
    resource: Resource,
    read_only: Mapping[str, Path],
    program: Program,
) -> None:
    order = {
        "inner": inner,
        "resource": dataclasses.asdict(resource),
        "read_only": {path: str(source) for path, source in read_only.items()},
        "command": list(program.command),
        "limits": dataclasses.asdict(program.limits),
        "environment": dict(program.environment),
    }
    _write(folder / ORDER, order)


def load(folder: Path) -> Left | None:
    try:
        result = json.loads((folder / RESULT).read_bytes())
    except FileNotFoundError:
        return None
    left_out, unreadable = tuple(result.pop("left_out")), result.pop("unreadable")
    for name in ("stdout", "stderr"):
        result[name] = base64.b64decode(result[name])
    executed = Executed(**{**result, "ended": Ended(result["ended"])})
    return Left(executed, left_out, unreadable)


def run(folder: Path) -> Left:
    order = json.loads((folder / ORDER).read_bytes())
    resource = Resource(**order["resource"])
    if ids := os.environ.get("SLURM_JOB_GPUS"):
        resource = dataclasses.replace(resource, gpu_ids=tuple(map(int, ids.split(","))))
    read_only = {path: Path(source) for path, source in order["read_only"].items()}
    program = Program(order["command"], Limits(**order["limits"]), order["environment"])
    try:
        inner = factory(order["inner"])
        work, out = folder / "work", folder / "out"
        return run_once(inner, resource, read_only, program, work, out, _kill_at_end_of_input)
    except (UserError, OSError) as error:
        return Left(ended(Ended.INFRASTRUCTURE, f"{os.uname().nodename}: {error}"))


def _kill_at_end_of_input(sandbox: Sandbox) -> None:
    def wait() -> None:
        while os.read(0, 1):
            pass
        sandbox.kill()

    threading.Thread(target=wait, daemon=True).start()


def _write(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def main(folder: Path) -> None:
    (folder / BEGUN).touch()
    left = run(folder)
    result = left.executed._asdict()
    for name in ("stdout", "stderr"):
        result[name] = base64.b64encode(result[name]).decode()
    _write(
        folder / RESULT,
        {**result, "left_out": list(left.left_out), "unreadable": left.unreadable},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
