"""How a run ended: exactly one of eight states, and what there is to learn from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    """Shown to the researcher as they are: a failure teaches too."""

    OK = "ok"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    PATCH_FAILED = "patch_failed"
    TAMPERED = "tampered"
    INVALID_METRIC = "invalid_metric"
    INFRASTRUCTURE = "infrastructure"  # ours, not the idea's: the only one that is tried again


@dataclass(frozen=True)
class Outcome:
    state: State
    score: float | None = None  # in the environment's own unit; only with OK
    seconds: float = 0.0  # by the harness's clock
    reason: str = ""  # one line
    log: str = ""  # the end of what the candidate printed
    metrics: Mapping[str, float] = field(default_factory=dict)  # beside the score

    def __post_init__(self) -> None:
        assert (self.score is not None) == (self.state is State.OK), self
