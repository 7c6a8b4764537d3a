"""The ideator learns from what its ideas were worth: GRPO on the rewards of an environment.

    python -m research_env.learn --config=configs/learn_laptop.py --workdir=runs/learn
    python -m research_env.learn --config=configs/learn_laptop.py --workdir=runs/kept \\
        --novelty=0.3 --cap=4

The environment is `synthetic`, whose ideas are settings and take no time. A small model first reads
ideas that the mutator had (WORKDIR/warm_up, a run of the trainer), then has ideas of its own and is
rewarded by their scores (WORKDIR/policy, a run of sbp_jax.grpo). What is published of such learning
is that the mean rises and the maximum does not, because the policy settles on a few safe ideas.
WORKDIR/learning.json and learning.png show whether that happens here: mean and best of a step, the
share of ideas that differ, that of the commonest, how long they are.

`--novelty` takes away from an idea what others of the same step have in common with it, `--cap`
rewards no more than so many copies of one. Exit codes: 0 when it is done, 2 for a mistake, 130
after Ctrl-C, after which the same command goes on.
"""

from sbp_jax import cli

if __name__ == "__main__":
    # Before the slow imports, which would be done twice.
    cli.use_huge_pages()
    cli.end_at_interrupt()

import ast
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from etils import epath

from research_env.bank import SEARCH, Bank
from research_env.env import Environment, load, seed_of
from research_env.outcome import State
from research_env.researcher.interface import FRESH, Want
from research_env.researcher.mutator import Mutator
from research_env.running import inline
from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Document, write_corpus
from sbp_jax.data.tokens import refuse_other_inputs
from sbp_jax.reinforcement.problems import Problem
from sbp_jax.reinforcement.run import grpo, grpo_run
from sbp_jax.reporting import plots
from sbp_jax.reporting.figures import Line, Lines
from sbp_jax.train import keep_compiled, train
from sbp_jax.training.metrics import read_lines

NOVELTY = flags.DEFINE_float("novelty", 0.0, "Weight of being unlike the others.", lower_bound=0)
CAP = flags.DEFINE_integer("cap", 0, "Rewarded copies of an idea in a step; 0: all.", lower_bound=0)
IDEAS = 4000  # of the mutator, to read first
BEGINNING = "idea:\n"
_ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*) = (\S+)")


def main() -> None:
    workdir = files.absolute(cli.WORKDIR.value)
    keep_compiled(workdir / "compiled")
    if not learn(cli.experiment(), workdir, NOVELTY.value, CAP.value):
        raise KeyboardInterrupt


def learn(e: Experiment, workdir: epath.Path, novelty: float, cap: int) -> dict[str, Any]:
    """The three stages; {} if it was stopped."""
    environment = load(inline.NAME)
    ideas, warm_up, record = workdir / "ideas", workdir / "warm_up", workdir / "reward.json"
    asked_for = {"--novelty": novelty, "--cap": cap}
    if record.exists():
        refuse_other_inputs(workdir, files.read_record(record), asked_for)
    files.write_json(record, asked_for)
    if not files.has_manifest(ideas):
        write_corpus(mutated(environment, e.seed), ideas)
    if not train(
        dataclasses.replace(e, data=dataclasses.replace(e.data, input=str(ideas))), warm_up
    ):
        return {}
    question = workdir / "question.jsonl"
    row = {"question": BEGINNING, "answer": "any"}  # the same for all, as they are of one group
    files.write_bytes(question, json.dumps(row).encode() + b"\n")
    asked = dataclasses.replace(e.grpo, problems=str(question), held_out=str(question))
    policy = grpo_run(dataclasses.replace(e, grpo=asked), str(warm_up))
    values = Values(environment, e.seed)

    def reward(texts: Sequence[tuple[Problem, str]]) -> list[float]:
        return rewards([text for _, text in texts], values, novelty, cap)

    if not grpo(policy, workdir / "policy", reward):
        return {}
    found = learning(read_lines(workdir / "policy" / "texts.jsonl"), values)
    files.write_json(workdir / "learning.json", found)
    files.write_bytes(workdir / "learning.png", plots.png(drawn(found["steps"])))
    print(told(found["steps"]))
    return found


def mutated(environment: Environment, seed: int) -> Iterator[Document]:
    """Ideas of one or more edits, as a model is to write them."""
    source = (environment.code / inline.SETTINGS).read_text()
    start = inline.settings_of(source)
    mutator = Mutator({inline.SETTINGS: source}, seed, lambda _: None)
    with Bank(":memory:", write=True) as empty:
        for wish in range(IDEAS):
            proposal = mutator.propose(empty, Want(FRESH, wish=wish))
            assert proposal is not None  # the bank knows none
            changed = inline.settings_of(mutator.changed_by(proposal.diff)[inline.SETTINGS])
            lines = [
                f"{name} = {value!r}" for name, value in changed.items() if value != start[name]
            ]
            text = BEGINNING + "\n".join(lines)
            yield Document(f"idea {wish}", text, "mutator")


class Values:
    """What ideas are worth: the score of a run on the search split, 0 where there is none."""

    def __init__(self, environment: Environment, seed: int):
        self._landscape, self._environment = inline.landscape_module(), environment
        self._start = inline.settings_of((environment.code / inline.SETTINGS).read_text())
        self._seed = seed

    def idea(self, text: str) -> str | None:
        """The text made plain: its settings that change something, in order; None if it is none."""
        settings = self._settings(text)
        if settings is None:
            return None
        changed = [f"{k} = {v!r}" for k, v in sorted(settings.items()) if v != self._start[k]]
        return "\n".join(changed) or None

    def __call__(self, text: str, run: int) -> float:
        settings = self._settings(text)
        if settings is None:
            return 0.0
        source = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
        seed = seed_of(self._seed, run, SEARCH, 0)
        variables = self._environment.environment
        outcome = inline.scored(self._landscape, source, variables, SEARCH, seed)
        return max(outcome.score or 0.0, 0.0) if outcome.state is State.OK else 0.0

    def _settings(self, text: str) -> dict[str, Any] | None:
        settings = dict(self._start)
        for line in text.strip().splitlines():
            found = _ASSIGNMENT.fullmatch(line.strip())
            if not found or found[1] not in settings:
                return None
            try:
                settings[found[1]] = ast.literal_eval(found[2])
            except (ValueError, SyntaxError):
                return None
        return settings


def rewards(texts: Sequence[str], values: Values, novelty: float, cap: int) -> list[float]:
    """Scores, less what an idea shares with the others of its step, and none beyond the cap."""
    ideas = [values.idea(text) for text in texts]
    lines = Counter(line for idea in ideas if idea for line in idea.splitlines())
    seen: Counter[str | None] = Counter()
    given = []
    for run, (text, idea) in enumerate(zip(texts, ideas, strict=True)):
        seen[idea] += 1
        worth = values(text, run)
        if idea is None or (cap and seen[idea] > cap):
            worth = 0.0
        elif novelty:
            own = idea.splitlines()
            worth -= novelty * sum(lines[line] - 1 for line in own) / len(own) / len(texts)
        given.append(worth)
    return given


def learning(steps: Sequence[Mapping[str, Any]], values: Values) -> dict[str, Any]:
    """What the ideas of each step were worth by themselves, and how they differ."""
    found = []
    for step in steps:
        texts = [text for _, _, text, _ in step["texts"]]
        ideas = [values.idea(text) for text in texts]
        worth = [values(text, run) if idea else 0.0
                 for run, (text, idea) in enumerate(zip(texts, ideas, strict=True))]  # fmt: skip
        sound = [idea for idea in ideas if idea]
        commonest = Counter(sound).most_common(1)
        found.append({
            "step": step["step"],
            "mean": sum(worth) / len(worth),
            "best": max(worth),
            "sound": len(sound) / len(texts),
            "different": len(set(sound)) / len(texts),
            "commonest": commonest[0][1] / len(texts) if commonest else 0.0,
            "commonest_idea": commonest[0][0] if commonest else "",
            "edits": sum(len(idea.splitlines()) for idea in sound) / max(len(sound), 1),
        })  # fmt: skip
    return {"steps": found}


def drawn(steps: Sequence[Mapping[str, Any]]) -> Lines:
    x = [step["step"] for step in steps]
    lines = [
        Line(label, style, x, [step[name] for step in steps], [], [])
        for label, name, style in (
            ("mean value", "mean", 0),
            ("best of the step", "best", 1),
            ("share of ideas that differ", "different", 5),
            ("share of the commonest", "commonest", 6),
        )
    ]
    return Lines("An ideator learns on synthetic", "step", "value, or share", lines)


def told(steps: Sequence[Mapping[str, Any]]) -> str:
    """The first and the last tenth of the steps, side by side."""
    tenth = max(len(steps) // 10, 1)
    rows = ["            first  last"]
    for name in ("mean", "best", "sound", "different", "commonest", "edits"):
        ends = [
            sum(step[name] for step in part) / tenth for part in (steps[:tenth], steps[-tenth:])
        ]
        rows.append(f"{name:10} {ends[0]:6.3f} {ends[1]:6.3f}")
    return "\n".join(rows)


if __name__ == "__main__":
    cli.run(main)
