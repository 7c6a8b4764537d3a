"""Training runs as real processes: a config of a few seconds, and the command that starts it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from sbp_jax import config as config_lib
from sbp_jax.model import transformer
from sbp_jax.training.checkpoint import restore_params

REPOSITORY = Path(__file__).resolve().parents[2]

TINY = """
from sbp_jax.config import new_config


def get_config():
    config = new_config()
    config.model.update(
        num_layers=2, d_model=32, num_heads=2, num_kv_heads=1, head_dim=16, d_ff=64, vocab_size=320
    )
    config.data.sequence_length = 64
    config.toyworld.update(concepts=40, documents=200, held_out_documents=20)
    config.train.update(batch_size=8, tokens=40 * 8 * 64, log_every=1, samples=0, tensorboard=False)
    config.checkpoint.every_steps = 7
    config.eval.update(every_steps=20, max_sequences=16)
    return config
"""


@dataclasses.dataclass
class Finished:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a user's mistake gets."""
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.code == 2, (self.code, self.err)
        assert len(errors) == 1, self.err
        assert "Traceback" not in self.err, self.err
        assert self.err.splitlines()[-1] == errors[0], self.err
        return errors[0]


class Running:
    """A started command; its output goes to files, so that no pipe can fill up."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path):
        self.process, self.out, self.err = process, out, err

    def wait_for(self, happened: Callable[[], Any], timeout: float = 600) -> None:
        """Returns as soon as something happened; fails when the command ends before."""
        deadline = time.monotonic() + timeout
        while not happened():
            assert self.process.poll() is None, f"it ended first:\n{self.err.read_text()}"
            assert time.monotonic() < deadline, f"it did not happen:\n{self.err.read_text()}"
            time.sleep(0.001)

    def says(self, text: str) -> Callable[[], bool]:
        return lambda: text in self.err.read_text() + self.out.read_text()

    def finish(self, timeout: float = 600) -> Finished:
        code = self.process.wait(timeout)
        return Finished(code, self.out.read_text(), self.err.read_text())

    def trainers(self) -> list[int]:
        """The training processes that launch/local.sh has started."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        commands = {int(c): Path(f"/proc/{c}/cmdline").read_bytes() for c in children}
        return [child for child, command in commands.items() if b"sbp_jax.train" in command]


@dataclasses.dataclass(frozen=True)
class Trainer:
    """`python -m sbp_jax.train` on a number of fake devices in a process."""

    config: Path
    logs: Path
    devices: int = 1
    processes: int = 0  # started by launch/local.sh; 0 is without it

    @contextmanager
    def start(self, workdir: Path, *flags: str) -> Iterator[Running]:
        command = [sys.executable, "-m", "sbp_jax.train", f"--config={self.config}"]
        if self.processes:
            command = ["launch/local.sh", str(self.processes), "--", *command]
        count = len(list(self.logs.iterdir()))
        out, err = self.logs / f"{count}.out", self.logs / f"{count}.err"
        flag = f"--xla_force_host_platform_device_count={self.devices}"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                # Under a runner started with nohup or `&`, Ctrl-C would be ignored from here on.
                ["env", "--default-signal=INT", *command, f"--workdir={workdir}", *flags],
                cwd=REPOSITORY,
                env={**os.environ, "XLA_FLAGS": flag},
                stdout=stdout,
                stderr=stderr,
            )
        running = Running(process, out, err)
        try:
            yield running
        finally:
            if process.poll() is None:
                for pid in [process.pid, *running.trainers()]:
                    os.kill(pid, signal.SIGKILL)
                process.wait()

    def run(self, workdir: Path, *flags: str) -> Finished:
        with self.start(workdir, *flags) as running:
            return running.finish()

    def train(self, workdir: Path, *flags: str) -> Finished:
        finished = self.run(workdir, *flags)
        assert finished.code == 0, finished.err + finished.out
        return finished


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    folder = tmp_path_factory.mktemp("trainer")
    (folder / "tiny.py").write_text(TINY)
    (folder / "logs").mkdir()
    return Trainer(folder / "tiny.py", folder / "logs")


@pytest.fixture(scope="session")
def result() -> Callable[[Path], tuple[list[dict[str, Any]], dict[str, np.ndarray]]]:
    """What a run has come to: its metrics without wall-clock figures, its final parameters."""

    def read(workdir: Path) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        experiment = config_lib.from_json((workdir / "config.json").read_text())
        shapes = transformer.param_shapes(experiment.model)
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        params, step = restore_params(workdir, shapes, jax.tree.map(lambda _: here, shapes))
        assert step == experiment.num_steps
        flat = jax.tree_util.tree_flatten_with_path(params)[0]
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            del line["tokens_per_s"], line["mfu"]
        return lines, {jax.tree_util.keystr(path): np.asarray(value) for path, value in flat}

    return read


@pytest.fixture(scope="session")
def assert_same_bits(result) -> Callable[[Path, Path], None]:
    def compare(workdir: Path, uninterrupted: Path) -> None:
        (lines, params), (expected_lines, expected) = result(workdir), result(uninterrupted)
        assert lines == expected_lines
        assert params.keys() == expected.keys()
        for name, value in expected.items():
            assert params[name].tobytes() == value.tobytes(), name

    return compare


def steps_logged(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="session")
def reached() -> Callable[[Path, int], Callable[[], bool]]:
    return lambda workdir, step: lambda: steps_logged(workdir) >= step
