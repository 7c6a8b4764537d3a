"""Runs an idea again on the search split, whatever came of it; the new result takes the old one's
place.

    python -m research_env.rerun runs/first 31

A search that is going on there takes it up; otherwise this command does, as `resume` would. Earlier
attempts stay in the bank. Promotion and verdict are not touched.
"""

import signal
from pathlib import Path

from research_env.bank import NAME, QUEUED, RUNNING, SEARCH, Bank
from research_env.env import seed_of
from research_env.resume import resume
from research_env.running.signals import LOOK, searcher
from sbp_jax import cli
from sbp_jax.errors import UserError


def main(given: str, idea: str) -> None:
    if not idea.isdigit():
        raise UserError(
            f"{idea!r}: must be an idea's number; python -m research_env.bank lists them"
        )
    workdir = Path(given)
    Bank(workdir / NAME).close()  # which says so if there is none; the next would make it
    with Bank(workdir / NAME, write=True) as bank:
        _enqueue(bank, int(idea))
    search = searcher(workdir)
    if search is None:
        resume(given)
    signal.pidfd_send_signal(search, LOOK)
    print(f"idea {idea} is in the queue of the search that is going on there")


def _enqueue(bank: Bank, number: int) -> None:
    with bank.at_once():
        idea, runs = bank.idea(number), bank.runs(number, SEARCH)
        if any(run.state in (QUEUED, RUNNING) for run in runs):
            raise UserError(f"idea {number} is {idea.state} already")
        seeds = {run.seed for run in runs} or {seed_of(bank.get("seed"), number, SEARCH, 0)}
        attempt = max((run.attempt for run in runs), default=-1) + 1
        for seed in sorted(seeds):
            bank.enqueue(number, SEARCH, seed, attempt)


if __name__ == "__main__":
    cli.run(main, needs=(), arguments=("WORKDIR", "ID"))
