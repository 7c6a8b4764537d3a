"""The run around the algorithm: draw, reward, learn; evaluation, checkpoints, stopping.

One process draws and learns on the same devices, with the same weights. All that is random follows
from the seed and the number of the step, so a run that was killed ends in the same bits.
"""

import dataclasses
import logging
import random
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from sbp_jax import config, files, parallel
from sbp_jax.config import Experiment
from sbp_jax.config_rules import validate
from sbp_jax.data.tokenizer import load_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference.sampler import Sampler, length_class
from sbp_jax.reinforcement.policy import Learner, flat
from sbp_jax.reinforcement.problems import AnswerReward, Problem, Reward, read_problems
from sbp_jax.reinforcement.rollouts import Rollout, draw, rows
from sbp_jax.train import finished, first_state, refuse_other_config
from sbp_jax.training.checkpoint import (
    Checkpoints,
    check_architecture,
    restore_params,
    tokenizer_path,
)
from sbp_jax.training.loop import Clock, hours, stop_requests
from sbp_jax.training.metrics import JsonLines, Metrics, read_lines
from sbp_jax.training.step import TrainState, state_shapes, state_shardings

# Of the trainer, which the user knows from the section grpo.
OWN_FIELDS = r"config\.(?:train|optimizer)\.(batch_size|peak_lr|warmup|weight_decay)"
log = logging.getLogger(__name__)


def grpo_run(e: Experiment, init_from: str) -> Experiment:
    """The experiment of the run, refused if it cannot be: its steps are those of the optimizer."""
    g, replace = e.grpo, dataclasses.replace
    init_from = init_from or e.init_from
    if not init_from:
        raise UserError(
            "--init_from is missing: the run, checkpoint or Hugging Face folder that learns"
        )
    texts = g.prompts * g.group
    if texts % g.batch_size:
        raise UserError(
            f"config.grpo.batch_size={g.batch_size} does not divide the {texts} texts of a step, "
            f"config.grpo.prompts={g.prompts} of config.grpo.group={g.group}"
        )
    updates = g.steps * updates_per_step(e)
    run = replace(
        e,
        init_from=init_from,
        model=replace(e.model, dropout=0.0),
        optimizer=replace(
            e.optimizer,
            peak_lr=g.peak_lr,
            final_lr=g.peak_lr,
            schedule="constant",
            warmup=g.warmup,
            weight_decay=g.weight_decay,
        ),
        train=replace(
            e.train,
            batch_size=g.batch_size,
            tokens=updates * g.batch_size * e.data.sequence_length,
        ),
    )
    try:
        validate(run)
    except UserError as error:
        raise UserError(re.sub(OWN_FIELDS, r"config.grpo.\1", str(error))) from error
    return run


def updates_per_step(e: Experiment) -> int:
    return e.grpo.passes * e.grpo.prompts * e.grpo.group // e.grpo.batch_size


def grpo(
    experiment: Experiment,
    workdir: epath.PathLike,
    reward: Reward | None = None,
    *,
    allow_change: bool = False,
) -> dict[str, Any]:
    """One run from start, or from where it was interrupted, to its summary; {} if it was stopped.
    `reward` takes the place of the right answer in the asked form.
    """
    workdir = files.absolute(workdir)
    refuse_other_config(workdir, experiment, allow_change)
    if summary := finished(workdir, experiment):
        log.info("%s: this run is finished; nothing to do", workdir)
        return summary
    check_architecture(experiment.init_from, experiment.model, allow_change=allow_change)
    with ExitStack() as ending:
        refusal = f"{workdir}: another process is training there"
        ending.enter_context(files.exclusive(workdir / ".lock", refusal))
        if reward is None:
            reward = ending.enter_context(closing(AnswerReward(experiment.grpo.answer)))
        return _grpo(experiment, workdir, reward)


def _grpo(e: Experiment, workdir: epath.Path, reward: Reward) -> dict[str, Any]:
    clock, g = Clock(), e.grpo
    per_step = updates_per_step(e)

    # Problems, and the weights: from the newest checkpoint, or those it begins with.
    problems, held_out = read_problems(g.problems), read_problems(g.held_out)[: g.evaluated]
    template = read_template(g.prompt)
    tokenizer = load_tokenizer(tokenizer_path(e.init_from))
    mesh = parallel.make_mesh(e.mesh)
    shardings = state_shardings(e, mesh)
    checkpoints = Checkpoints(workdir, e.checkpoint)
    state, meta = first_state(e, checkpoints, shardings)
    clock.add(meta.get("clock", {}))
    reference = None
    if g.kl:
        reference, _ = restore_params(e.init_from, state_shapes(e).params, shardings.params)
    tokenizer.save(workdir / "tokenizer")
    files.write_bytes(workdir / "config.json", config.to_json(e).encode())

    # The sampler and the learner.
    learner = Learner(e, mesh, tokenizer.vocab_size)
    sampler = Sampler(
        e.model,
        state.params,
        tokenizer,
        max_length=e.data.sequence_length,
        batch_size=e.engine.batch_size,
    )

    def judged(state: TrainState) -> float:
        """The mean reward of the likeliest texts for the held-out problems."""
        sampler.set_params(state.params)
        drawn = draw(sampler, held_out, g, template, group=1, temperature=0.0, seed="")
        return float(np.mean(_rewards(reward, drawn)[0]))

    first = int(state.step) // per_step
    metrics = Metrics(workdir, e, first or -1, primary=True)  # a line for the policy as it came
    texts = JsonLines(workdir / "texts.jsonl", first)
    if not first:
        before = judged(state)
        metrics.write(0, {"held_out_reward": before})
        log.info("before the first step: held-out reward %.4f", before)
    clock.charge("start")
    began = time.perf_counter()

    # The loop.
    with stop_requests() as requested:
        for number in range(first + 1, g.steps + 1):
            sampler.set_params(state.params)
            name = f"{e.seed}/{number}"
            chosen = of_step(problems, g.prompts, number - 1, e.seed)
            drawn = draw(
                sampler, chosen, g, template, group=g.group, temperature=g.temperature, seed=name
            )
            drawing = clock.charge("drawing")
            rewards, bad = _rewards(reward, drawn)
            clock.charge("rewards")
            longest = max(len(one.prompt) + len(one.tokens) for one in drawn)
            batch = rows(drawn, _row_length(e, longest))
            orders = [
                np.array(random.Random(f"{name}/{turn}").sample(range(len(drawn)), len(drawn)))
                for turn in range(g.passes)
            ]
            grouped = rewards.reshape(g.prompts, g.group)
            state, told = learner.learn(state, batch, grouped, orders, reference)
            if told["skipped_in_a_row"] >= e.train.max_skipped:
                raise UserError(
                    f"step {number}: {e.train.max_skipped} gradients in a row were not finite; "
                    "lower config.grpo.peak_lr"
                )
            tokens = int(batch["drawn"].sum())
            line = {
                "reward": float(rewards.mean()),
                "best_of_group": float(grouped.max(axis=1).mean()),
                "flat_groups": int(flat(grouped).sum()),  # nothing is learnt from them
                "different_texts": len({(one.problem, one.text) for one in drawn}) / len(drawn),
                "bad_rewards": bad,
                "text_tokens": tokens / len(drawn),
                "cut_texts": sum(one.cut for one in drawn) / len(drawn),
                **told,
                "tokens": tokens,
                "drawn_per_s": round(tokens / drawing, 1),
                "learnt_per_s": round(tokens / clock.charge("learning"), 1),
            }
            stopping, last = requested(), number == g.steps
            if last or number % g.every_steps == 0:
                line["held_out_reward"] = judged(state)
                clock.charge("evaluation")
            metrics.write(number, line)
            kept = zip(drawn[: g.kept_texts], rewards.tolist(), strict=False)
            texts.write(number, {"texts": [[*one.problem, one.text, worth] for one, worth in kept]})
            pace = (time.perf_counter() - began) / (number - first)
            _say(line, number, g.steps, eta=pace * (g.steps - number))
            if last or stopping or number % e.checkpoint.every_steps == 0:
                metrics.flush()
                texts.flush()
                checkpoints.save(state, {"clock": dict(clock.spent)})
                clock.charge("checkpoints")
            if stopping and not last:
                break
        checkpoints.wait()
    metrics.close()
    texts.close()
    checkpoints.close()
    if int(state.step) < e.num_steps:
        log.info("stopped after step %d of %d; resume with the same command", number, g.steps)
        return {}
    summary = summarize(e, workdir, clock)
    files.write_json(workdir / "summary.json", summary)
    log.info(
        "done in %s: held-out reward %.4f; metrics.jsonl and summary.json are in %s",
        hours(summary["wall_s"]),
        summary["held_out_reward"],
        workdir,
    )
    return summary


def of_step(problems: Sequence[Problem], count: int, step: int, seed: int) -> list[Problem]:
    """Those of a step: the problems over and over, each time in another order."""
    chosen = []
    for place in range(step * count, (step + 1) * count):
        turn, index = divmod(place, len(problems))
        order = random.Random(f"{seed}/problems/{turn}").sample(range(len(problems)), len(problems))
        chosen.append(problems[order[index]])
    return chosen


def read_template(prompt: str) -> str:
    template = Path(prompt).read_text() if "{" not in prompt and Path(prompt).is_file() else prompt
    if "{question}" not in template:
        raise UserError(f"config.grpo.prompt={prompt!r} has no {{question}}, nor is it a file")
    return template


def summarize(e: Experiment, workdir: epath.Path, clock: Clock) -> dict[str, Any]:
    lines = read_lines(workdir / "metrics.jsonl")
    judged = [
        {"step": line["step"], "reward": line["held_out_reward"]}
        for line in lines
        if "held_out_reward" in line
    ]
    return {
        "held_out_reward": judged[-1]["reward"],
        "held_out_rewards": judged,
        "reward": lines[-1]["reward"],
        "steps": e.num_steps,  # of the optimizer
        "texts": e.grpo.steps * e.grpo.prompts * e.grpo.group,
        "tokens": sum(line.get("tokens", 0) for line in lines),
        "skipped": lines[-1]["skipped"],
        "wall_s": round(clock.total, 1),
        "seconds": {name: round(seconds, 1) for name, seconds in clock.spent.items()},
    }


def _rewards(reward: Reward, drawn: Sequence[Rollout]) -> tuple[np.ndarray, int]:
    """One for each text; what is no finite number is none, and counted."""
    given = np.array(reward([(one.problem, one.text) for one in drawn]), np.float64)
    if given.shape != (len(drawn),):
        raise ValueError(f"a reward gave {given.size} values for {len(drawn)} texts")
    finite = np.isfinite(given)
    return np.where(finite, given, 0.0), int((~finite).sum())


def _row_length(e: Experiment, longest: int) -> int:
    """One of a few, for each is a program of its own."""
    parts = e.model.loss_chunks * max(e.mesh.context, 1)
    return -(-length_class(longest, e.data.sequence_length) // parts) * parts


def _say(line: dict[str, Any], number: int, steps: int, eta: float) -> None:
    judged = f"  held-out {line['held_out_reward']:.4f}" if "held_out_reward" in line else ""
    log.info(
        "step %d/%d  reward %.4f  %.1f tokens a text  %s tokens/s drawn, %s learnt  ETA %s%s",
        number,
        steps,
        line["reward"],
        line["text_tokens"],
        f"{line['drawn_per_s']:,.0f}",
        f"{line['learnt_per_s']:,.0f}",
        hours(eta),
        judged,
    )
