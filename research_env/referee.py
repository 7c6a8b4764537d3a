"""What a change of an environment's code is worth: it is applied, run, and scored, each in a fresh
sandbox, so that nothing the candidate says or leaves behind is believed.

    stage    command         sees, beside a fresh writable /work         is told
    run      candidate's     /work = code + diff; /data                  SEED
    prepare  harness's       /eval /labels                               SEED SPLIT SECRET
    predict  candidate's     /work = code + diff + artifact/;            SEED
                             /data /inputs
    score    harness's       /eval /labels /artifact /predictions /key   SEED SPLIT RUN_SECONDS

`run` leaves /work/artifact, `prepare` /work/inputs and /work/key, `predict` /work/predictions (of
each folder in inputs/, if there are any, in a sandbox of its own, as predictions/ of that name);
`prepare` and `score` start in /eval, and `score` prints, as its last line, a JSON object with
"score" and other numbers. All are told the variables of env.toml. RUN_SECONDS is the harness's
clock. SEED is known to the candidate: what must not be guessed is drawn from SECRET. In a sandbox
that is a mere process all these paths begin with SANDBOX_ROOT, which is not set in others.
"""

import json
import math
import re
import secrets
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from research_env import tree
from research_env.env import AIResearchEnv, Environment, Stage, seed_of
from research_env.outcome import Outcome, State
from research_env.patching import patch
from research_env.sandbox.protocol import (
    Ended,
    Executed,
    Resource,
    Sandbox,
    SandboxFactory,
    Unreadable,
)

_LOG = 6000  # characters of what the candidate printed, for the researcher
_MOST_REASON = 300
# Of an allocation that was refused, where nothing had to be killed; XLA's word is of a GPU.
_MEMORY = re.compile("MemoryError|OutOfMemoryError|RESOURCE_EXHAUSTED|out of memory")
_ENDS = {
    Ended.TIMED_OUT: State.TIMED_OUT,
    Ended.OUT_OF_MEMORY: State.OUT_OF_MEMORY,
    Ended.KILLED: State.INFRASTRUCTURE,
    Ended.INFRASTRUCTURE: State.INFRASTRUCTURE,
}


def judge(
    environment: Environment,
    diff: str,
    split: str,
    seed: int,
    sandboxes: SandboxFactory,
    folder: Path,
    smoke: bool = False,
) -> Outcome:
    """One run of the candidate, scored on one split; logs stay in `folder`.

    Never raises for what a candidate does. An INFRASTRUCTURE outcome may be tried again. With
    `smoke`, a run with the environment's tiny budget: whether it ends well counts, not its score.
    """
    trial = _Trial(environment, split, seed, sandboxes, folder, smoke)
    start = time.monotonic()
    try:
        trial.clear()
        score, metrics = trial.judge(diff)
        verdict = _Verdict(State.OK)
    except _Ends as end:
        verdict, score, metrics = end.verdict, None, {}
    except OSError as error:  # of the sandbox, or of our own disk
        verdict, score, metrics = _Verdict(State.INFRASTRUCTURE, str(error)), None, {}
    finally:
        trial.clear()
    seconds = time.monotonic() - start
    reason = _one_line(verdict.reason)
    return Outcome(verdict.state, score, seconds, reason, trial.log[-_LOG:], metrics)


def research_env(
    environment: Environment, sandboxes: SandboxFactory, folder: Path, seed: int = 0
) -> AIResearchEnv:
    """The environment as the two functions of its abstraction, on the search split."""

    def value(diff: str, resource: Resource, factory: SandboxFactory) -> float:
        one = seed_of(seed, 0, "search", 0)
        outcome = judge(environment, diff, "search", one, factory, folder)
        return environment.metric.worst if outcome.score is None else outcome.score

    return AIResearchEnv(environment.context(), environment.run.resource, sandboxes, value)


class _Verdict(NamedTuple):
    state: State
    reason: str = ""


class _Ends(Exception):
    """The trial is over, and not well."""

    def __init__(self, state: State, reason: str):
        self.verdict = _Verdict(state, reason)


class _Trial:
    def __init__(
        self,
        environment: Environment,
        split: str,
        seed: int,
        sandboxes: SandboxFactory,
        folder: Path,
        smoke: bool,
    ):
        self.environment, self.split, self.sandboxes = environment, split, sandboxes
        self.folder, self.log = folder, ""
        self.smoke = environment.smoke if smoke else None
        self.variables = {
            **environment.environment,
            **(self.smoke.environment if self.smoke else {}),
            "SEED": str(seed),
            "PYTHONHASHSEED": str(seed % 2**32),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",  # what was printed before a kill is in the log
        }
        self.secret_variables = {"SPLIT": environment.splits[split]}

    def clear(self) -> None:
        for name in ("tree", "eval", "inputs", "key", "artifact", "predictions", "after"):
            place = self.folder / name
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)

    def judge(self, diff: str) -> tuple[float, Mapping[str, float]]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.patch(diff)
        run_seconds = self.run()
        given = {"/artifact": self.folder / "artifact"}
        if self.environment.predict and self.environment.prepare:
            self.prepare(self.environment.prepare)
            self.predict(self.environment.predict)
            given["/predictions"] = self.folder / "predictions"
            given["/key"] = self.folder / "key"
        return self.score(given, run_seconds)

    # The stages

    def patch(self, diff: str) -> None:
        environment = self.environment
        now = tree.stamps(environment.folder, ("code", "eval"))
        if changed := tree.changed(environment.pinned, now):
            why = f"{environment.folder / changed} has changed since the environment was loaded"
            raise _Ends(State.INFRASTRUCTURE, f"{why}; undo that, or start a new search")
        tree.copy(environment.code, self.folder / "tree")
        result = patch.apply(self.folder / "tree", diff, environment.editable)
        if isinstance(result, patch.PatchFailed):
            state = State.TAMPERED if result.refused else State.PATCH_FAILED
            raise _Ends(state, result.reason)
        self.refuse_violation()
        tree.copy(environment.eval, self.folder / "eval", but=environment.labels)

    def run(self) -> float:
        stage = self.environment.run
        if self.smoke:
            seconds = self.smoke.wall_seconds
            stage = stage.with_wall_seconds(min(seconds, stage.limits.wall_seconds))
        with self.open(stage, self.data()) as sandbox:
            sandbox.copy_in(self.folder / "tree", "/work")
            seconds = self.candidate(sandbox, stage, "run").seconds
            self.refuse_changes(sandbox)
            self.take(sandbox, "artifact", stage)
        return seconds

    def prepare(self, stage: Stage) -> None:
        with self.open(stage, self.evaluator()) as sandbox:
            secret = {"SECRET": str(secrets.randbits(62))}
            done = self.harness(sandbox, stage, "prepare", secret)
            if done.ended is not Ended.EXITED or done.exit_code:
                raise _Ends(State.INFRASTRUCTURE, f"prepare: {_how_it_ended(done)}")
            try:
                for name in ("inputs", "key"):
                    sandbox.read_out(name, self.folder / name, stage.limits.disk_mb)
            except Unreadable as error:
                raise _Ends(State.INFRASTRUCTURE, f"prepare: {error}") from None

    def predict(self, stage: Stage) -> None:
        """On all inputs at once; where `prepare` put folders there, on each in a sandbox of its
        own: a candidate that saw a probe beside what it is compared with could spare just that.
        """
        inputs = self.folder / "inputs"
        for part in sorted(p.name for p in inputs.iterdir() if p.is_dir()) or [""]:
            with self.open(stage, {"/inputs": inputs / part, **self.data()}) as sandbox:
                # The files as they were applied, whatever the run did to its own.
                sandbox.copy_in(self.folder / "tree", "/work")
                sandbox.copy_in(self.folder / "artifact", "/work/artifact")
                self.candidate(sandbox, stage, "predict")
                self.refuse_changes(sandbox)
                self.take(sandbox, "predictions", stage, part)

    def score(
        self, given: Mapping[str, Path], run_seconds: float
    ) -> tuple[float, Mapping[str, float]]:
        stage = self.environment.score
        with self.open(stage, {**self.evaluator(), **given}) as sandbox:
            clock = {"RUN_SECONDS": f"{run_seconds:.6f}"}
            done = self.harness(sandbox, stage, "score", clock)
        if _ENDS.get(done.ended) is State.INFRASTRUCTURE:
            raise _Ends(State.INFRASTRUCTURE, f"score: {done.reason}")
        if done.ended is not Ended.EXITED or done.exit_code:
            # The evaluator is ours, but what it choked on is the candidate's.
            raise _Ends(State.INVALID_METRIC, f"cannot be scored: {_how_it_ended(done)}")
        return self.read_score(done.stdout)

    def read_score(self, stdout: bytes) -> tuple[float, Mapping[str, float]]:
        lines = stdout.decode(errors="replace").strip().splitlines() or [""]
        try:
            values = json.loads(lines[-1])
            numbers = {
                str(name): float(value)
                for name, value in values.items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
            score = numbers.pop("score")
        except (ValueError, AttributeError, KeyError, OverflowError):
            raise _Ends(State.INVALID_METRIC, "the evaluator printed no score") from None
        metric = self.environment.metric
        if not (math.isfinite(score) if self.smoke else metric.valid(score)):
            bounds = f"{metric.low:g} to {metric.high:g}"
            raise _Ends(State.INVALID_METRIC, f"{metric.name} {score:g} is not within {bounds}")
        return score, {name: value for name, value in numbers.items() if math.isfinite(value)}

    # What they share

    def open(self, stage: Stage, read_only: Mapping[str, Path]) -> Sandbox:
        return self.sandboxes(stage.resource, read_only)

    def data(self) -> dict[str, Path]:
        return {"/data": self.environment.data} if self.environment.data else {}

    def evaluator(self) -> dict[str, Path]:
        labels = self.environment.labels_of(self.split)
        return {"/eval": self.folder / "eval"} | ({"/labels": labels} if labels else {})

    def candidate(self, sandbox: Sandbox, stage: Stage, name: str) -> Executed:
        done = sandbox.exec(["bash", "-c", stage.command], stage.limits, self.variables)
        printed = _text(done)
        self.log += printed
        self.keep_log(name, printed)
        if done.ended in _ENDS:
            raise _Ends(_ENDS[done.ended], f"{name}: {done.reason or done.ended}")
        if done.exit_code:
            how = _how_it_ended(done)
            state = State.OUT_OF_MEMORY if _MEMORY.search(how) else State.CRASHED
            raise _Ends(state, f"{name}: {how}")
        return done

    def harness(
        self, sandbox: Sandbox, stage: Stage, name: str, more: Mapping[str, str]
    ) -> Executed:
        command = ["bash", "-c", f'cd "$SANDBOX_ROOT/eval" && {stage.command}']
        variables = {**self.variables, **self.secret_variables, **more}
        done = sandbox.exec(command, stage.limits, variables)
        self.keep_log(name, _text(done))
        return done

    def keep_log(self, name: str, text: str) -> None:
        (self.folder / f"{name}.log").write_text(text, errors="replace")

    def take(self, sandbox: Sandbox, name: str, stage: Stage, part: str = "") -> None:
        """What the candidate leaves: plain files only, since a link could lead to the labels."""
        place = self.folder / name / part
        place.parent.mkdir(exist_ok=True)
        try:
            left_out = sandbox.read_out(name, place, stage.limits.disk_mb)
        except Unreadable as error:
            raise _Ends(
                State.INVALID_METRIC, f"{name}/ is missing or unreadable: {error}"
            ) from None
        if not place.is_dir():
            raise _Ends(State.INVALID_METRIC, f"{name} must be a folder")
        if odd := next(iter(left_out), None) or tree.irregular(place):
            raise _Ends(State.TAMPERED, f"{name}/{odd} is a link or no regular file")

    def refuse_violation(self) -> None:
        environment = self.environment
        where = self.folder / "tree"
        if why := tree.violation(environment.code, where, environment.editable):
            raise _Ends(State.TAMPERED, why)

    def refuse_changes(self, sandbox: Sandbox) -> None:
        """By the run itself, of what is protected. The next stage has fresh files all the same."""
        for path in self.environment.files(editable=False):
            ours, theirs = self.folder / "tree" / path, self.folder / "after" / path
            try:
                sandbox.read_out(path, theirs, (ours.stat().st_size >> 20) + 1)
                same = theirs.read_bytes() == ours.read_bytes()
            except (Unreadable, OSError):
                same = False
            if not same:
                raise _Ends(State.TAMPERED, f"{path!r} was changed by the run")


def _text(done: Executed) -> str:
    parts = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
    return "".join(part if part.endswith("\n") or not part else part + "\n" for part in parts)


def _how_it_ended(done: Executed) -> str:
    """In one line: the last that it said, and its exit code."""
    if done.ended is not Ended.EXITED or done.reason:
        return done.reason or str(done.ended)
    code = f"exit code {done.exit_code}"
    if done.exit_code < 0:
        try:
            code = signal.Signals(-done.exit_code).name
        except ValueError:
            code = f"signal {-done.exit_code}"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return f"{lines[-1].strip()[:_MOST_REASON]} ({code})" if lines else code


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MOST_REASON]
