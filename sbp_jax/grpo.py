"""Group relative policy optimisation: a model learns from the rewards of its own texts.

    python -m sbp_jax.train --config=configs/grpo_laptop.py --workdir=runs/addition
    python -m sbp_jax.grpo --config=configs/grpo_laptop.py --init_from=runs/addition \\
        --workdir=runs/grpo

One process draws and learns on the same devices, with the same weights. The same command resumes
an interrupted run, to the same bits, and does nothing for a finished one. WORKDIR is a run like the
trainer's: metrics.jsonl (a line a step), checkpoints/, config.json, summary.json. Exit codes: 0
when it is done, 2 for a mistake, 130 after Ctrl-C or SIGTERM, at which a checkpoint is saved.
"""

from sbp_jax import cli

if __name__ == "__main__":
    # Before the slow imports, which would be done twice.
    cli.use_huge_pages()
    cli.end_at_interrupt()

from sbp_jax import files
from sbp_jax.reinforcement.run import grpo, grpo_run
from sbp_jax.train import ALLOW_CHANGE, INIT_FROM, keep_compiled


def main() -> None:
    experiment = grpo_run(cli.experiment(), INIT_FROM.value or "")
    workdir = files.absolute(cli.WORKDIR.value)
    keep_compiled(workdir / "compiled")
    if not grpo(experiment, workdir, allow_change=ALLOW_CHANGE.value):
        raise KeyboardInterrupt


if __name__ == "__main__":
    cli.run(main)
