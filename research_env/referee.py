"""What a change of an environment's code is worth: it is applied, run, and scored, each in a fresh
sandbox, so that nothing the candidate says or leaves behind is believed.

    stage    command         sees, beside a fresh writable /work         is told
    run      candidate's     /work = code + diff; /data                  SEED
    prepare  harness's       /eval /labels                               SEED SPLIT
    predict  candidate's     /work = code + diff + artifact/; /inputs    SEED
    score    harness's       /eval /labels /artifact /predictions /key   SEED SPLIT RUN_SECONDS

`run` leaves /work/artifact, `prepare` /work/inputs and /work/key, `predict` /work/predictions;
`score` starts in /eval and prints, as its last line, a JSON object with "score" and other numbers.
All are told the variables of env.toml's [environment]. RUN_SECONDS is the harness's clock.
"""

from pathlib import Path

from research_env.env import Environment
from research_env.outcome import Outcome
from research_env.sandbox.protocol import SandboxFactory


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

    Never raises for what a candidate does. An INFRASTRUCTURE outcome may be tried again.
    """
    raise NotImplementedError
