"""The checks of an environment, one finding at a time."""

import math
import os
import secrets
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from research_env import cheats, patch, significance, tree
from research_env.env import SPLITS, Environment, Stage, seed_of
from research_env.outcome import Outcome, State
from research_env.referee import judge
from research_env.sandbox.protocol import SandboxFactory

_WINDOW = 64  # bytes of a label file that no file of the candidate's may hold
_PATIENCE = 60.0  # seconds for an attack that is not about time
_WINDOWS = 200  # of each label file
_TOP = 3  # ideas that a search runs again, for the room that the noise leaves
_NOTES = ("/tmp", "/var/tmp", "/dev/shm", "/work", "/data", "/run", os.path.expanduser("~"))


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
        self.secret, self.flag, self.tried = (secrets.token_hex(12) for _ in range(3))
        self.honest: dict[bool, list[float]] = {}  # of the search split; True: smoke runs
        self.heard: list[str] = []

    def findings(self, runs: int) -> Iterator[Finding]:
        yield from self.splits()
        yield from self.baseline(runs)
        if not self.honest.get(True):
            return  # there is nothing to compare a cheat with
        with ExitStack() as stack:
            told = stack.enter_context(self.told())
            for name, diff in cheats.changes(self.environment, told["best"]):
                yield self.change(name, diff)
            for attack in cheats.ATTACKS:
                yield self.attack(attack, told)
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
        for split, place in there.items():
            for path, stamp in tree.stamps(place).items():
                if (place / path).stat().st_size and stamp.sha256 in seen:
                    words = f"{split}/{path} is the same as {seen[stamp.sha256]}"
                    yield Finding("splits", False, words)
                seen[stamp.sha256] = f"{split}/{path}"
        words = f"{len(seen)} files of labels, no two the same"
        yield self.leaks(there) or Finding("splits", True, words)

    def leaks(self, labels: Mapping[str, Path]) -> Finding | None:
        environment = self.environment
        given = [environment.code] + ([environment.data] if environment.data else [])
        texts = {place / path: None for place in given for path in tree.listed(place)}
        for path in texts:
            data = path.read_bytes()
            for split, place in labels.items():
                for name in tree.listed(place):
                    secret = (place / name).read_bytes()
                    step = max(len(secret) // _WINDOWS, _WINDOW)
                    for at in range(0, len(secret) - _WINDOW, step):
                        window = secret[at : at + _WINDOW]
                        if len(set(window)) > 8 and window in data:
                            words = f"{path} holds a part of {split}/{name}"
                            return Finding("splits", False, words)
        return None

    def baseline(self, runs: int) -> Iterator[Finding]:
        environment = self.environment
        metric = environment.metric
        scores = []
        for number in range(runs):
            outcome = self.judge("", "search", number)
            yield self.ran(f"baseline {number + 1} of {runs}", outcome)
            if outcome.score is None:
                return
            scores.append(outcome.score)
        self.honest[False] = scores
        for split in SPLITS[1:]:
            yield self.ran(f"baseline on {split}", self.judge("", split, 0))
        noise = significance.noise(scores)
        again = self.judge("", "search", 0)
        if again.score is not None:
            same = again.score == scores[0]
            words = "the same score" if same else f"{again.score:.6g} after {scores[0]:.6g}"
            yield Finding("the same seed again", True, words)
        seeds = environment.seeds["selection"]
        least = significance.detectable(noise.sd, seeds, _TOP)
        limit = metric.high if metric.sign > 0 else metric.low
        room = abs(limit - noise.mean)
        words = (
            f"{metric.name} {noise.mean:.6g}, sd {noise.sd:.3g}; an improvement must be about "
            f"{least:.3g} to be seen, and {room:.3g} is possible"
        )
        yield Finding("noise floor", least < room, words)
        if environment.smoke is None:
            self.honest[True] = scores
            return
        smoke = [self.judge("", "search", number, smoke=True) for number in range(3)]
        for number, outcome in enumerate(smoke):
            if outcome.score is None:
                yield self.ran(f"smoke run {number + 1}", outcome)
                return
        self.honest[True] = [outcome.score for outcome in smoke if outcome.score is not None]
        seconds = sum(outcome.seconds for outcome in smoke) / len(smoke)
        yield Finding("smoke runs", True, f"{seconds:.1f} s each")

    def ran(self, name: str, outcome: Outcome) -> Finding:
        if outcome.score is None:
            return Finding(name, False, f"{outcome.state}: {outcome.reason}")
        return Finding(name, True, f"{outcome.score:.6g} in {outcome.seconds:.1f} s")

    # Cheats

    def change(self, name: str, diff: str) -> Finding:
        outcome = self.judge(diff, "search", 0, smoke=True)
        caught = outcome.state in (State.TAMPERED, State.PATCH_FAILED)
        return Finding(name, caught, f"{outcome.state}: {outcome.reason}", cheat=True)

    def own_cheat(self, file: Path) -> Finding:
        outcome = self.judge(file.read_text(), "search", 0)
        patched = outcome.state is not State.PATCH_FAILED
        sound = patched and not self.helped(outcome, smoke=False)
        return Finding(file.stem.replace("_", " "), sound, self.told_of(outcome), cheat=True)

    def attack(self, attack: cheats.Attack, told: Mapping[str, Any]) -> Finding:
        """Caught if it got through to nothing, and its score is no better than an honest one."""
        told = {**told, "limits": vars(self.environment.run.limits) | dict(attack.limits)}
        limits = attack.limits
        if attack.must_fail and "protected" in attack.name and not told["protected"]:
            return Finding(attack.name, True, "nothing is protected", cheat=True)
        diff = self.with_attack(attack.source(told))
        if not diff:
            words = f"no file of {list(self.environment.editable)} is Python's or the shell's"
            return Finding(attack.name, False, words, cheat=True)
        variant = _limited(self.environment, limits)
        for _ in range(1 + attack.twice):
            outcome = self.judge(diff, "search", 0, smoke=True, environment=variant)
        printed = self.printed()
        if why := self.got_through(attack, outcome, printed, told):
            return Finding(attack.name, False, why, cheat=True)
        if self.tried not in printed:
            words = f"it did not run ({self.told_of(outcome)}): which editable file is run?"
            return Finding(attack.name, False, words, cheat=True)
        return Finding(attack.name, True, self.told_of(outcome), cheat=True)

    def got_through(
        self, attack: cheats.Attack, outcome: Outcome, printed: str, told: Mapping[str, Any]
    ) -> str | None:
        for line in printed.splitlines():
            if self.flag in line:
                return line.replace(self.flag, "it").strip()[:300]
        if self.heard:
            return "something here was reached over the network"
        if (alive := _processes(self.secret)) and not self.end(alive):
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
            return f"{self.told_of(outcome)}, which is better than honest"
        return None

    def helped(self, outcome: Outcome, smoke: bool) -> bool:
        """Better than the honest runs by more than their noise."""
        if outcome.score is None:
            return False
        sign, honest = self.environment.metric.sign, self.honest[smoke]
        noise = significance.noise(honest)
        best = max(sign * score for score in honest)
        return sign * outcome.score > best + 4 * noise.sd + 1e-6 * abs(best)

    def told_of(self, outcome: Outcome) -> str:
        if outcome.score is not None:
            return f"ok, and no better: {outcome.score:.6g}"
        return f"{outcome.state}: {outcome.reason}"

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
        """Targets of this machine, for the time of the attacks."""
        environment, metric = self.environment, self.environment.metric
        secret_file = self.folder / "secret"
        secret_file.write_text(self.secret)
        labels: dict[str, list[str]] = {}
        places = [str(environment.folder / "eval")]
        for place in filter(None, map(environment.labels_of, SPLITS)):
            places.append(str(place))
            for path, stamp in tree.stamps(place).items():
                size = (place / path).stat().st_size
                if size >= 16:
                    labels.setdefault(str(size), []).append(stamp.sha256)
        limit = metric.high if metric.sign > 0 else metric.low
        honest = self.honest[True][0]
        best = limit if math.isfinite(limit) else honest + metric.sign * (abs(honest) + 1)
        os.environ["CHECK_SECRET"] = self.secret
        try:
            with self.listening() as port:
                yield {
                    "flag": self.flag,
                    "tried": self.tried,
                    "secret": self.secret,
                    "secret_file": str(secret_file),
                    "secret_places": [*places, "/eval", "/labels", "/key"],
                    "labels": labels,
                    "eval": str(environment.eval),
                    "protected": environment.files(editable=False),
                    "best": best,
                    "port": port,
                    "harness": os.getpid(),
                    "folders": list(_NOTES),
                    "sleeper": cheats.sleeper(),
                }
        finally:
            del os.environ["CHECK_SECRET"]
            for place in map(Path, _NOTES):  # of a sandbox that is none
                for note in place.glob(f"{self.secret}*") if place.is_dir() else ():
                    note.unlink(missing_ok=True)

    @contextmanager
    def listening(self) -> Iterator[int]:
        """Somebody who would answer over the network."""
        with ExitStack() as stack:
            stream = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            stream.bind(("127.0.0.1", 0))
            datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            datagrams.bind(stream.getsockname())
            local = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            local.bind("\0" + self.secret)
            for server in (stream, local):
                server.listen()
                threading.Thread(target=self.accept, args=(server,), daemon=True).start()
            threading.Thread(target=self.answer, args=(datagrams,), daemon=True).start()
            yield stream.getsockname()[1]

    def accept(self, server: socket.socket) -> None:
        try:
            while True:
                connection, _ = server.accept()
                self.heard.append("a connection")
                with connection:
                    connection.sendall(b"here they are")
        except OSError:  # closed
            return

    def answer(self, server: socket.socket) -> None:
        try:
            while True:
                _, sender = server.recvfrom(100)
                self.heard.append("a datagram")
                server.sendto(b"here they are", sender)
        except OSError:
            return

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

    def end(self, processes: list[int]) -> bool:
        """Kills what an attack left here, which is a finding: False."""
        for pid in processes:
            os.kill(pid, 9)
        return not processes


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


def _processes(word: str) -> list[int]:
    """Those of this machine with the word in their command line, as far as one may see."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if word.encode() in file.read():
                    found.append(int(pid))
        except OSError:
            continue
    return found
