"""Slurm: each program is a job, in which a node opens a sandbox of its own (bubblewrap).

The folder below `$SANDBOX_FOLDER` (or ~/.sandboxes), the project, its Python and what is given
read-only lie on a disk that all nodes share. The job asks for the memory of the program and of the
disk that it may fill, and for more time than it has; its sandbox holds the exact limits.

`srun`, which starts at once where there is room, and not `sbatch`, which waits for the scheduler's
next round: a second, with most settings. Its input is a pipe that nobody writes to: when the
harness ends, however that is, the job reads its end, and ends too.
"""

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from research_env.sandbox.job import BEGUN, RESULT, load, save
from research_env.sandbox.protocol import Ended, Resource
from research_env.sandbox.staged import Left, Program, Staged, ended
from sbp_jax.errors import UserError

OVERHEAD_MB = 256  # Python's in the job
SPARE_MINUTES = 5  # of the job's time, for its files and for Slurm's own way of ending it
ANSWER = 30.0  # seconds
PATIENCE = 60.0  # seconds for a result to appear on a slow shared disk, or for a job to end


def check() -> None:
    if not shutil.which("srun"):
        raise UserError(
            "Slurm is not installed (no srun): apt-get install slurm-client (slurm-wlm for a "
            "cluster of one's own), or name another sandbox"
        )
    try:
        asked = ["sinfo", "--noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=ANSWER)
    except subprocess.TimeoutExpired:
        raise UserError(f"Slurm does not answer within {ANSWER:g} s; see sinfo") from None
    if done.returncode:
        raise UserError(f"Slurm does not answer: {_last_line(done.stderr)}; is slurmctld running?")


class Slurm(Staged):
    def __init__(
        self, resource: Resource, read_only: Mapping[str, Path], inner: str = "bubblewrap"
    ) -> None:
        under = os.environ.get("SANDBOX_FOLDER") or Path.home() / ".sandboxes"
        super().__init__(resource, read_only, Path(under).absolute())
        self._inner = inner

    def _run(self, program: Program) -> Left:
        for name in (BEGUN, RESULT):
            (self.folder / name).unlink(missing_ok=True)
        save(self.folder, self._inner, self.resource, self.read_only, program)
        srun = subprocess.Popen(
            job(self.folder, self.resource, program),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the harness's to answer
        )
        with self._ending(srun):
            assert srun.stderr
            words = srun.stderr.read().decode(errors="replace")
            code = srun.wait()
        return self._result(code, words)

    @contextmanager
    def _ending(self, srun: subprocess.Popen[bytes]) -> Iterator[None]:
        """Ends the job when it is to be killed, as long as this lasts."""
        stdin, stderr = srun.stdin, srun.stderr
        assert stdin and stderr

        def end() -> None:
            stdin.close()
            if not (self.folder / BEGUN).exists():  # it waits in the queue, and reads nothing
                srun.terminate()
            try:
                srun.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                srun.kill()

        with self.when_killed(end), stdin, stderr:
            yield

    def _result(self, code: int, words: str) -> Left:
        end = time.monotonic() + (PATIENCE if code == 0 else 0)
        while not (left := load(self.folder)):
            if time.monotonic() >= end:
                reason = f"Slurm's job left no result: {_last_line(words)}"
                return Left(ended(Ended.INFRASTRUCTURE, reason))
            time.sleep(0.1)
        return left


def job(folder: Path, resource: Resource, program: Program) -> list[str]:
    limits = program.limits
    command = ["srun", "--job-name=sandbox", "--nodes=1", "--ntasks=1", "--mpi=none"]
    command += ["--export=NONE", f"--chdir={folder}", "--quiet", "--unbuffered"]
    command += [f"--cpus-per-task={resource.cores}"]
    command += [f"--mem={limits.memory_mb + limits.disk_mb + OVERHEAD_MB}M"]
    command += [f"--time={math.ceil(limits.wall_seconds / 60) + SPARE_MINUTES}"]
    if resource.gpus:
        command += [f"--gres=gpu:{resource.gpus}"]
    command += ["/usr/bin/env", "PATH=/usr/local/bin:/usr/bin:/bin"]
    command += [f"PYTHONPATH={Path(__file__).resolve().parents[2]}", sys.executable, "-B"]
    return [*command, "-m", "research_env.sandbox.job", str(folder)]


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "no word why")
