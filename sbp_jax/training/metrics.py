"""Where the numbers go: `metrics.jsonl` always, TensorBoard by default, Weights & Biases when
asked.

A resumed run continues each of them at the checkpoint's step: what an interrupted run had logged
past it is dropped first, so that the file is the one of a run that was never interrupted.
"""

import json
import logging
import os
import sys
from typing import Any

from etils import epath

from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.errors import UserError

log = logging.getLogger(__name__)


class Metrics:
    """Written by the first process alone; on the others every call does nothing."""

    def __init__(self, workdir: epath.Path, experiment: Experiment, start_step: int, primary: bool):
        self.writers: list[Any] = []
        if not primary:
            return
        self.writers.append(JsonLines(workdir / "metrics.jsonl", start_step))
        if experiment.train.tensorboard and files.is_remote(workdir):
            log.warning("%s: TensorBoard files need a local workdir; left out", workdir)
        elif experiment.train.tensorboard:
            self.writers.append(TensorBoard(workdir / "tensorboard", start_step))
        if experiment.train.wandb:
            self.writers.append(Wandb(experiment.train.wandb, workdir, experiment))

    def write(self, step: int, values: dict[str, Any]) -> None:
        for writer in self.writers:
            writer.write(step, values)

    def flush(self) -> None:
        """To the disk: called before a checkpoint that counts on these lines."""
        for writer in self.writers:
            writer.flush()

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


class JsonLines:
    """A line for each logged step. In object storage, where nothing can be appended, the whole
    object is written again at each flush.
    """

    def __init__(self, path: epath.Path, start_step: int):
        self.path = path
        self.lines = [line for line in read_lines(path) if line["step"] <= start_step]
        self._rewrite()
        self.file = None if files.is_remote(path) else open(path, "a")  # noqa: SIM115

    def _rewrite(self) -> None:
        files.write_bytes(self.path, "".join(_json_line(line) for line in self.lines).encode())

    def write(self, step: int, values: dict[str, Any]) -> None:
        line = {"step": step, **values}
        try:
            if self.file is None:
                self.lines.append(line)
            else:
                self.file.write(_json_line(line))
                self.file.flush()
        except OSError as error:
            raise UserError(f"{self.path}: cannot write: {error.strerror}") from error

    def flush(self) -> None:
        if self.file is None:
            self._rewrite()
        else:
            os.fsync(self.file.fileno())

    def close(self) -> None:
        self.flush()
        if self.file is not None:
            self.file.close()


def read_lines(path: epath.Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; one without its newline was cut by a crash."""
    if not path.exists():
        return []
    *whole, _torn = path.read_text().split("\n")
    try:
        return [json.loads(line) for line in whole]
    except ValueError as error:
        raise UserError(
            f"{path}: not JSON ({error}); mend the line, or use another --workdir"
        ) from error


def _json_line(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


class TensorBoard:
    def __init__(self, folder: epath.Path, start_step: int):
        # Where torch is installed, tensorboardX imports it, for tensors that we do not have: 5 s.
        hiding = "torch" not in sys.modules
        if hiding:
            sys.modules["torch"] = None  # type: ignore[assignment]
        from tensorboardX import SummaryWriter

        if hiding:
            del sys.modules["torch"]
        self.writer = SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else None)

    def write(self, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Wandb:
    def __init__(self, project: str, workdir: epath.Path, experiment: Experiment):
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "config.train.wandb is set but wandb is not installed: pip install wandb"
            ) from error
        import dataclasses

        self.run = wandb.init(
            project=project,
            id=files.sha256(str(workdir).encode())[:16],
            resume="allow",
            name=workdir.name,
            config=dataclasses.asdict(experiment),
        )

    def write(self, step: int, values: dict[str, Any]) -> None:
        self.run.log(values, step=step)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.run.finish()
