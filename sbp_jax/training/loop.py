"""The loop around the step: logging, evaluation, checkpoints, stopping.

The metrics of step k are fetched while step k + 1 runs, so the device never waits for the host. A
request to stop (SIGTERM, Ctrl-C) travels through the step itself: whichever process gets it, all of
them see it at the same step and save the same checkpoint.
"""

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from sbp_jax.config import Experiment
from sbp_jax.config_rules import profile_range
from sbp_jax.errors import UserError
from sbp_jax.training.checkpoint import Checkpoints
from sbp_jax.training.flops import flops_per_token
from sbp_jax.training.metrics import Metrics
from sbp_jax.training.step import TrainState, stop_flags

log = logging.getLogger(__name__)


class Clock:
    """Seconds by what they were spent on, over all the processes' lives that a run took."""

    def __init__(self):
        self.spent: dict[str, float] = {}
        self.last = time.perf_counter()

    def add(self, spent: dict[str, float]) -> None:
        """Takes over what earlier lives of the run spent."""
        for activity, seconds in spent.items():
            self.spent[activity] = self.spent.get(activity, 0.0) + seconds

    def charge(self, activity: str) -> float:
        """Books the time since the last call on an activity."""
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        self.spent[activity] = self.spent.get(activity, 0.0) + seconds
        return seconds

    @property
    def total(self) -> float:
        return sum(self.spent.values())


def fit(
    experiment: Experiment,
    state: TrainState,
    *,
    mesh: jax.sharding.Mesh,
    step: Callable[[TrainState, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]],
    batches: Iterator[Any],
    evaluate: Callable[[TrainState], float],
    checkpoints: Checkpoints,
    metrics: Metrics,
    peak_flops: float,
    clock: Clock,
    meta: dict[str, Any],
) -> tuple[TrainState, bool]:
    """Trains to the end of the budget and returns True, or False when asked to stop before."""
    t, c = experiment.train, experiment.checkpoint
    start, end = int(state.step), experiment.num_steps
    reporter = Reporter(experiment, metrics, peak_flops * mesh.size, start, clock)
    reporter.running_loss = meta.get("running_loss")
    flags = {flag: stop_flags(mesh, flag) for flag in (False, True)}
    profile = profile_range(t.profile_steps)
    pending: tuple[int, dict[str, jax.Array]] | None = None
    stopping = tracing = False
    with stop_requests() as requested:
        for number in range(start + 1, end + 1):
            if profile and not tracing and profile[0] <= number <= profile[1]:
                jax.profiler.start_trace(str(checkpoints.folder.parent / "profile"))
                tracing = True
            state, values = step(state, next(batches), flags[requested()])
            if pending:
                stopping = reporter.report(*pending)
            pending = number, values
            if profile and tracing and number == profile[1]:
                jax.block_until_ready(values)
                jax.profiler.stop_trace()
                tracing = False
            evaluating = number == end or (
                experiment.eval.every_steps and number % experiment.eval.every_steps == 0
            )
            saving = number == end or number % c.every_steps == 0 or stopping
            if evaluating or saving:
                host_values = jax.device_get(values)
                clock.charge("steps")
                extra = {"eval_loss": evaluate(state)} if evaluating else None
                clock.charge("evaluation")
                stopping = reporter.report(number, host_values, extra) or stopping
                saving = saving or stopping
                pending = None
            if saving and host_values["skipped_in_a_row"] and number < end:
                # The weights may be what makes the gradient infinite: the checkpoints before stay.
                log.warning("step %d: no checkpoint: its gradient was not finite", number)
            elif saving:
                metrics.flush()
                carried = {"clock": dict(clock.spent), "running_loss": reporter.running_loss}
                checkpoints.save(state, meta | carried)
                clock.charge("checkpoints")
            if stopping:
                break
        if tracing:  # the run ends within the range
            jax.profiler.stop_trace()
        checkpoints.wait()
    clock.charge("checkpoints")
    return state, int(state.step) == end


class Reporter:
    """Turns the numbers of a step into a logged line, and stops a run that cannot go on."""

    def __init__(
        self, experiment: Experiment, metrics: Metrics, peak_flops: float, start: int, clock: Clock
    ):
        self.experiment, self.metrics, self.clock = experiment, metrics, clock
        self.peak_flops = peak_flops
        self.flops_per_token = flops_per_token(experiment.model, experiment.data.sequence_length)
        self.start_step = self.last_step = start
        self.last_seconds = clock.spent.get("steps", 0.0)
        self.started = time.perf_counter()
        self.running_loss: float | None = None

    def report(
        self, number: int, values: dict[str, Any], extra: dict[str, float] | None = None
    ) -> bool:
        """Logs one step where it is due; True when some process wants all to stop."""
        e = self.experiment
        values = {name: value.item() for name, value in jax.device_get(values).items()}
        self._watch(number, values)
        if extra or number % e.train.log_every == 0 or number == e.num_steps:
            self.clock.charge("steps" if not extra else "logging")
            self._log(number, values, extra or {})
        return bool(values["stop"])

    def _watch(self, number: int, values: dict[str, Any]) -> None:
        t, loss = self.experiment.train, values["loss"]
        if values["skipped_in_a_row"]:
            log.warning("step %d: the gradient is not finite; the update is skipped", number)
        elif self.running_loss is not None and loss > t.spike_factor * self.running_loss:
            log.warning(
                "step %d: loss spike: %.4f after a mean of %.4f", number, loss, self.running_loss
            )
        if values["skipped_in_a_row"] >= t.max_skipped:
            raise UserError(
                f"step {number}: {t.max_skipped} gradients in a row were not finite; lower "
                "config.optimizer.peak_lr or config.optimizer.clip_norm, or look at the data. No "
                "checkpoint was written since the first of them"
            )
        if math.isfinite(loss):
            self.running_loss = (
                loss if self.running_loss is None else 0.95 * self.running_loss + 0.05 * loss
            )

    def _log(self, number: int, values: dict[str, Any], extra: dict[str, float]) -> None:
        e = self.experiment
        seconds = self.clock.spent["steps"] - self.last_seconds
        speed = (number - self.last_step) * e.tokens_per_step / max(seconds, 1e-9)
        self.last_step, self.last_seconds = number, self.clock.spent["steps"]
        mfu = speed * self.flops_per_token / self.peak_flops
        line = {
            "tokens": number * e.tokens_per_step,
            "loss": _finite(values["loss"]),
            "grad_norm": _finite(values["grad_norm"]),
            "lr": _finite(values["lr"]),
            "tokens_per_s": round(speed, 1),
            "mfu": round(mfu, 4),
            "skipped": values["skipped"],
            **{name: _finite(value) for name, value in extra.items()},
        }
        self.metrics.write(number, line)
        per_step = (time.perf_counter() - self.started) / (number - self.start_step)
        eta = per_step * (e.num_steps - number)
        held_out = f"  held-out {extra['eval_loss']:.4f}" if extra else ""
        log.info(
            "step %*d/%d  loss %.4f  %s tokens/s  MFU %.1f%%  ETA %s%s",
            len(str(e.num_steps)),
            number,
            e.num_steps,
            values["loss"],
            f"{speed:,.0f}",
            100 * mfu,
            hours(eta),
            held_out,
        )


def hours(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Within it, SIGTERM and Ctrl-C ask for a checkpoint and an orderly end; a second Ctrl-C ends
    at once.
    """
    requested = False

    def on_signal(number: int, frame: Any) -> None:
        nonlocal requested
        if requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested = True
        # Not by logging: the signal may have come in the middle of a line of it.
        os.write(2, f"{signal.Signals(number).name}: saving after this step\n".encode())

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
