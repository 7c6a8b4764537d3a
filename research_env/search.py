"""Searches an environment for better code, and says at the end whether it was found.

    python -m research_env.search --env=nanogpt --size=laptop --workdir=runs/first
    python -m research_env.search --env=my_env/ --workdir=runs/own --ideas=100 --max_hours=8
    python -m research_env.search --env=nanogpt --workdir=runs/llm --engine=api \\
        --config=configs/laptop.py --config.api.url=http://localhost:8000/v1 \\
        --config.api.model=NAME --max_tokens=5000000

Each idea is a change of the environment's code; it runs in a sandbox and is scored by the locked
evaluator. The best few run again on other data with fresh seeds, and what survives once more. The
same command goes on after any interruption, kill -9 included. docs/research.md explains strategies
and commands: resume, stop, rerun, export, bank; docs/researcher.md the language models.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import contextlib
import os
import sys
from pathlib import Path

from absl import flags

from research_env.bank import NAME
from research_env.dashboard import report
from research_env.researcher.interface import Researcher, Strategy
from research_env.researcher.strategies import open_strategy
from research_env.running import confirm
from research_env.running import settings as settings_lib
from research_env.running.campaign import DONE, Campaign
from research_env.running.desk import Desk
from research_env.running.live import TICK_SECONDS, Live
from research_env.running.scheduler import Scheduler
from research_env.running.settings import Settings
from research_env.running.signals import Signals

ENGINES = ("mutator", "api", "vllm", "jax")
STRATEGY = "evolution"

ENV = flags.DEFINE_string("env", None, "Name of a shipped environment, or the folder of one.")
SIZE = flags.DEFINE_string("size", "laptop", "Of env.toml's [sizes].", allow_override=True)
STRATEGY_FLAG = flags.DEFINE_string(
    "strategy", STRATEGY, "evolution, best_of_n, greedy, islands, map_elites or bandit; :key=value"
)
IDEAS = flags.DEFINE_integer("ideas", 256, "How many.", lower_bound=1)
ENGINE = flags.DEFINE_enum("engine", "mutator", ENGINES, "Who has them.", allow_override=True)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Run or checkpoint of the model: jax, vllm.", allow_override=True
)
SANDBOX = flags.DEFINE_string(
    "sandbox", None, "bubblewrap (usual), docker, slurm, ray, subprocess, or inline (synthetic)."
)
UNSAFE = flags.DEFINE_bool("unsafe", False, "Allows --sandbox=subprocess, which protects nothing.")
SEED = flags.DEFINE_integer(
    "seed", 0, "What all draws derive from.", lower_bound=0, allow_override=True
)
SLOTS = flags.DEFINE_integer("slots", 0, "Runs at a time; 0: as many as fit.", lower_bound=0)
MAX_HOURS = flags.DEFINE_float(
    "max_hours", 0.0, "In all starts together, with the confirmation; 0: no cap.", lower_bound=0
)
MAX_COST = flags.DEFINE_float("max_cost", 0.0, "Of the model's calls; 0: no cap.", lower_bound=0)
MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens", 0, "Of the model's calls, read and written; 0: no cap.", lower_bound=0
)
BASELINE_RUNS = flags.DEFINE_integer(
    "baseline_runs", 3, "Of the code as it is: they measure the noise.", lower_bound=2
)
TOP = flags.DEFINE_integer("top", 3, "Ideas that are run again to confirm them.", lower_bound=1)
REPAIRS = flags.DEFINE_integer("repairs", 2, "Of an idea that failed.", lower_bound=0)


def main() -> None:
    start(
        Settings(
            env=ENV.value or "",
            size=SIZE.value,
            workdir=str(Path(cli.WORKDIR.value or "").absolute()),
            strategy=STRATEGY_FLAG.value,
            ideas=IDEAS.value,
            engine=ENGINE.value,
            checkpoint=CHECKPOINT.value or "",
            sandbox=SANDBOX.value or "",
            unsafe=UNSAFE.value,
            seed=SEED.value,
            slots=SLOTS.value,
            max_hours=MAX_HOURS.value,
            max_cost=MAX_COST.value,
            max_tokens=MAX_TOKENS.value,
            baseline_runs=BASELINE_RUNS.value,
            top=TOP.value,
            repairs=REPAIRS.value,
            command=tuple(sys.argv[1:]),
            cwd=os.getcwd(),
        )
    )


def start(
    settings: Settings, researcher: Researcher | None = None, strategy: Strategy | None = None
) -> None:
    """Begins or goes on, and returns when there is a verdict. A researcher and a strategy of one's
    own may be given; a search that goes on needs them given again.
    """
    environment = settings_lib.environment_of(settings)
    models = settings_lib.models_of(settings) if researcher is None else ("",)
    strategy = strategy or open_strategy(settings.strategy, settings.ideas, models)
    task, inventory = settings_lib.task_of(settings, environment)
    plan = settings_lib.plan_of(settings)
    with contextlib.ExitStack() as stack:
        stack.enter_context(settings_lib.only_one(settings.folder))
        bank = stack.enter_context(settings_lib.open_bank(settings, environment))
        if researcher is None:
            opened = settings_lib.open_researcher(settings, environment, bank)
            researcher = stack.enter_context(opened)
        scheduler = Scheduler(bank, settings.folder, task, inventory)
        stack.callback(scheduler.close)
        desk = Desk(researcher, settings.folder / NAME, 1 + plan.ahead, scheduler.ring)
        stack.callback(desk.close)
        live = Live(bank)
        stack.callback(live.close)
        campaign = Campaign(bank, environment, scheduler, desk, strategy, plan, live.ended)
        with Signals(scheduler) as signals:
            campaign.begin()
            while campaign.step(TICK_SECONDS if live.terminal else None):
                live.show(campaign)
                if signals.drain:
                    campaign.drain()
                if signals.end:
                    campaign.leave()
                    raise KeyboardInterrupt  # told, and turned into exit code 130, by `cli.run`
        if campaign.phase == DONE:
            print(confirm.told(bank))
            print(f"The report: {report.write(settings.folder)}")
        else:
            print(f"stopped; python -m research_env.resume {settings.workdir} goes on")


if __name__ == "__main__":
    cli.run(main, needs=("env", "workdir"))
