"""The checks of an environment, one finding at a time."""

import math
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from mmap import PROT_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple

from research_env import cheats, significance, tree
from research_env.cheats.targets import Targets
from research_env.env import SPLITS, Environment, Stage, seed_of
from research_env.outcome import Outcome, State
from research_env.patching import patch
from research_env.referee import judge
from research_env.sandbox.protocol import SandboxFactory

_WINDOW = 64  # bytes of a label file
_PATIENCE = 60.0  # seconds for an attack that is not about time
_WINDOWS = 32  # of each split
_MOST_DATA = 1 << 30  # bytes of a file that are searched for them
_TOP = 3  # ideas that a search runs again, for the room that the noise leaves


class Finding(NamedTuple):
    name: str
    sound: bool
    words: str
    cheat: bool = False

    def __str__(self) -> str:
        mark = (
            ("caught" if self.cheat else "ok")
            if self.sound
            else "NOT " + ("CAUGHT" if self.cheat else "OK")
        )
        return f"{self.name}: {mark}: {self.words}"


class Audit:
    def __init__(self, environment: Environment, sandboxes: SandboxFactory, folder: Path):
        self.environment, self.sandboxes, self.folder = environment, sandboxes, folder
        self.flag, self.tried = (secrets.token_hex(12) for _ in range(2))
        self.honest: dict[bool, list[float]] = {}  # of the search split; True: smoke runs
        self.targets = Targets(environment, folder)

    def findings(self, runs: int) -> Iterator[Finding]:
        yield from self.splits()
        yield from self.honest_runs(runs)
        if True not in self.honest:
            return  # there is nothing to compare a cheat with
        yield from self.baseline()
        with ExitStack() as stack:
            told = stack.enter_context(self.told())
            for name, diff in cheats.changes(self.environment, told["best"]):
                yield self.change(name, diff)
            if self.runs_what_may_be_changed():
                for attack in cheats.ATTACKS:
                    yield self.attack(attack, told)
            else:
                words = "no file that may be changed is run, so there is nothing to attack from"
                yield Finding("attacks", True, words)
        for file in sorted((self.environment.folder / "cheats").glob("*.diff")):
            yield self.own_cheat(file)

    # What there is

    def splits(self) -> Iterator[Finding]:
        """Labels that are in two splits, or in what the candidate is given."""
        folders = {split: self.environment.labels_of(split) for split in SPLITS}
        there = {split: place for split, place in folders.items() if place}
        if not there:
            yield Finding("splits", True, "no labels in files; the evaluator makes them from SPLIT")
            return
        lacking = sorted(set(SPLITS) - set(there))
        if lacking:
            yield Finding(
                "splits", False, f"{lacking[0]} has no folder in {self.environment.labels}"
            )
        seen: dict[str, str] = {}
        twice = None
        for split, place in there.items():
            for path, stamp in tree.stamps(place).items():
                if (place / path).stat().st_size and stamp.sha256 in seen:
                    twice = f"{split}/{path} is the same as {seen[stamp.sha256]}"
                seen[stamp.sha256] = f"{split}/{path}"
        if wrong := twice or self.leak(there):
            yield Finding("splits", False, wrong)
        else:
            yield Finding("splits", True, f"{len(seen)} files of labels, no two the same")

    def leak(self, labels: Mapping[str, Path]) -> str | None:
        """Where a split's labels can be read by the candidate; some words in common are no leak."""
        environment = self.environment
        given = [environment.code] + ([environment.data] if environment.data else [])
        for path in (place / path for place in given for path in tree.listed(place)):
            if not path.stat().st_size:
                continue
            with path.open("rb") as file, mmap(file.fileno(), 0, prot=PROT_READ) as data:
                for split, place in labels.items():
                    windows = _windows(place)
                    found = [name for name, text in windows if data.find(text, 0, _MOST_DATA) >= 0]
                    if len(found) > 0.1 * len(windows):
                        return f"{path} holds a part of {split}/{found[0]}"
        return None

    def honest_runs(self, runs: int) -> Iterator[Finding]:
        """Those that a cheat is compared with, in its own budget and in the full one."""
        for smoke in (False, True) if self.environment.smoke else (False,):
            scores = []
            for number in range(3 if smoke else runs):
                outcome = self.judge("", "search", number, smoke)
                name = "smoke run" if smoke else "baseline"
                yield self.ran(f"{name} {number + 1} of {3 if smoke else runs}", outcome)
                if outcome.score is None:
                    return
                scores.append(outcome.score)
            self.honest[smoke] = scores
        self.honest.setdefault(True, self.honest[False])

    def baseline(self) -> Iterator[Finding]:
        """What else there is to say of it, when it has run."""
        metric, scores = self.environment.metric, self.honest[False]
        for split in SPLITS[1:]:
            yield self.ran(f"baseline on {split}", self.judge("", split, 0))
        again = self.judge("", "search", 0)
        if again.score is not None:
            same = again.score == scores[0]
            words = "the same score" if same else f"{again.score:.6g} after {scores[0]:.6g}"
            yield Finding("the same seed again", True, words)
        noise = significance.noise(scores)
        least = significance.detectable(noise.sd, self.environment.seeds["selection"], _TOP)
        room = abs((metric.high if metric.sign > 0 else metric.low) - noise.mean)
        words = (
            f"{metric.name} {noise.mean:.6g}, sd {noise.sd:.3g}; an improvement must be about "
            f"{least:.3g} to be seen, and {room:.3g} is possible"
        )
        yield Finding("noise floor", least < room, words)

    def ran(self, name: str, outcome: Outcome) -> Finding:
        words = f"{_told(outcome)} in {outcome.seconds:.1f} s"
        return Finding(name, outcome.score is not None, words)

    # Cheats

    def change(self, name: str, diff: str) -> Finding:
        outcome = self.judge(diff, "search", 0, smoke=True)
        caught = outcome.state in (State.TAMPERED, State.PATCH_FAILED)
        return Finding(name, caught, f"{outcome.state}: {outcome.reason}", cheat=True)

    def own_cheat(self, file: Path) -> Finding:
        outcome = self.judge(file.read_text(), "search", 0)
        patched = outcome.state is not State.PATCH_FAILED
        sound = patched and not self.helped(outcome, smoke=False)
        return Finding(file.stem.replace("_", " "), sound, _told(outcome), cheat=True)

    def runs_what_may_be_changed(self) -> bool:
        """Whether a program that ends all at its start is noticed."""
        diff = self.with_attack("import os\nos.kill(os.getppid(), 9)\nos._exit(13)\n")
        return bool(diff) and self.judge(diff, "search", 0, smoke=True).score is None

    def attack(self, attack: cheats.Attack, told: Mapping[str, Any]) -> Finding:
        """Caught if it got through to nothing, and its score is no better than an honest one."""
        told = {**told, "limits": vars(self.environment.run.limits) | dict(attack.limits)}
        limits = attack.limits
        if attack.must_fail and "protected" in attack.name and not told["protected"]:
            return Finding(attack.name, True, "nothing is protected", cheat=True)
        diff = self.with_attack(attack.source(told))
        self.targets.heard.clear()
        variant = _limited(self.environment, limits)
        for _ in range(1 + attack.twice):
            outcome = self.judge(diff, "search", 0, smoke=True, environment=variant)
        printed = self.printed()
        if why := self.got_through(attack, outcome, printed, told):
            return Finding(attack.name, False, why, cheat=True)
        if self.tried not in printed:
            words = f"what it printed is lost; let run.sh print it ({_told(outcome)})"
            return Finding(attack.name, False, words, cheat=True)
        better = "" if outcome.score is None else ", no better than honest"
        return Finding(attack.name, True, _told(outcome) + better, cheat=True)

    def got_through(
        self, attack: cheats.Attack, outcome: Outcome, printed: str, told: Mapping[str, Any]
    ) -> str | None:
        for line in printed.splitlines():
            if self.flag in line:
                return line.replace(self.flag, "it").strip()[:300]
        if self.targets.heard:
            return "something here was reached over the network"
        if self.targets.end_daemons():
            return "its daemon outlived it"
        now = tree.stamps(self.environment.folder, ("code", "eval"))
        if changed := tree.changed(self.environment.pinned, now):
            return f"{changed} was changed"
        if outcome.state is State.INFRASTRUCTURE:
            return f"the sandbox did not stand it: {outcome.reason}"
        most = 3 * (self.environment.run.limits.output_kb << 10)
        if len(printed) > most:
            return f"{len(printed) >> 10} KB of output were kept"
        if outcome.state is State.OK and attack.must_fail:
            return "the run ended well"
        if outcome.seconds < attack.least_seconds:
            return f"the clock showed {outcome.seconds:.2f} s"
        if self.helped(outcome, smoke=True):
            return f"{_told(outcome)}, which is better than honest"
        return None

    def helped(self, outcome: Outcome, smoke: bool) -> bool:
        """Better than the honest runs by more than their noise."""
        if outcome.score is None:
            return False
        sign, honest = self.environment.metric.sign, self.honest[smoke]
        noise = significance.noise(honest)
        best = max(sign * score for score in honest)
        return sign * outcome.score > best + 4 * noise.sd + 1e-6 * abs(best)

    def with_attack(self, source: str) -> str:
        """As a diff of all editable programs: one of them runs first."""
        shutil.rmtree(self.folder / "attack", ignore_errors=True)
        tree.copy(self.environment.code, self.folder / "attack")
        for path in self.environment.files(editable=True):
            place = self.folder / "attack" / path
            try:
                text = cheats.at_the_start(path, place.read_text(), source)
            except UnicodeDecodeError:
                continue
            if text is not None:
                place.write_text(text)
        return patch.make_diff(self.environment.code, self.folder / "attack")

    @contextmanager
    def told(self) -> Iterator[dict[str, Any]]:
        """What the attacks are told, and may find here, as long as they last."""
        metric, honest = self.environment.metric, self.honest[True][0]
        limit = metric.high if metric.sign > 0 else metric.low
        best = limit if math.isfinite(limit) else honest + metric.sign * (abs(honest) + 1)
        words = {"flag": self.flag, "tried": self.tried, "best": best, "sleeper": cheats.sleeper()}
        with self.targets.there() as told:
            yield {**told, **words}

    # Runs

    def judge(
        self,
        diff: str,
        split: str,
        number: int,
        smoke: bool = False,
        environment: Environment | None = None,
    ) -> Outcome:
        folder = self.folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        seed = seed_of(0, 0, split, number)
        where = environment or self.environment
        return judge(where, diff, split, seed, self.sandboxes, folder, smoke)

    def printed(self) -> str:
        logs = [self.folder / "run" / f"{name}.log" for name in ("run", "predict")]
        return "".join(log.read_text(errors="replace") for log in logs if log.exists())


def _windows(place: Path) -> list[tuple[str, bytes]]:
    """Some pieces of what a folder's files hold, and whose."""
    found = []
    paths = tree.listed(place)
    for path in paths:
        with (place / path).open("rb") as file:
            size = file.seek(0, 2)
            step = max(size * len(paths) // _WINDOWS, _WINDOW)
            for at in range(0, size - _WINDOW, step):
                file.seek(at)
                text = file.read(_WINDOW)
                if len(set(text)) > 8:  # else it may be anywhere
                    found.append((path, text))
    return found


def _told(outcome: Outcome) -> str:
    if outcome.score is not None:
        return f"score {outcome.score:.6g}"
    return f"{outcome.state}: {outcome.reason}"


def _limited(environment: Environment, limits: Mapping[str, Any]) -> Environment:
    def tighter(stage: Stage) -> Stage:
        least = {key: min(value, getattr(stage.limits, key)) for key, value in limits.items()}
        return replace(stage, limits=replace(stage.limits, **least))

    predict = environment.predict and tighter(environment.predict)
    run, smoke = tighter(environment.run), environment.smoke
    if "wall_seconds" not in limits:  # the honest work's limit is not the attack's
        run = run.with_wall_seconds(max(_PATIENCE, run.limits.wall_seconds))
        smoke = smoke and smoke._replace(wall_seconds=max(_PATIENCE, smoke.wall_seconds))
    return replace(environment, run=run, predict=predict, smoke=smoke)
