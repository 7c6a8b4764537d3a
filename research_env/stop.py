"""Ends a search when its present runs are done, or at once.

    python -m research_env.stop runs/first
    python -m research_env.stop runs/first --now

Nothing is lost either way: `resume`, or the search's own command, goes on from there. With --now
the runs that are under way go back into the queue, those too that a killed search left behind.
"""

import select
import signal
from pathlib import Path

from absl import flags

from research_env.bank import NAME, RUNNING, Bank
from research_env.running.scheduler import RUNS, open_worker
from research_env.running.signals import DRAIN, searcher
from sbp_jax import cli

NOW = flags.DEFINE_bool("now", False, "Do not wait for the runs that are under way.")


def main(given: str) -> None:
    workdir = Path(given)
    with Bank(workdir / NAME) as bank:
        search = searcher(workdir)
        if search is not None:
            signal.pidfd_send_signal(search, signal.SIGTERM if NOW.value else DRAIN)
            select.select([search], [], [])
            print(f"stopped; python -m research_env.resume {given} goes on")
            return
        folders = [workdir / RUNS / str(run.id) for run in bank.open_runs(RUNNING)]
    workers = [pidfd for folder in folders if (pidfd := open_worker(folder)) is not None]
    if not workers:
        print("no search is going on there")
    elif NOW.value:
        for pidfd in workers:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            select.select([pidfd], [], [])
        print(f"no search was going on there; {len(workers)} runs that it had left were ended")
    else:
        print(
            f"no search is going on there, but {len(workers)} runs that it left are: resume "
            "collects them, --now ends them"
        )


if __name__ == "__main__":
    cli.run(main, needs=(), arguments=("WORKDIR",))
