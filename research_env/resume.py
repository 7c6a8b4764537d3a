"""Goes on with a search, as its own command would.

python -m research_env.resume runs/first
"""

import os
import sys
from pathlib import Path
from typing import NoReturn

from research_env.bank import NAME, Bank
from sbp_jax import cli
from sbp_jax.errors import UserError


def resume(workdir: str) -> NoReturn:
    """In place of this process, so that Ctrl-C and exit codes are the search's."""
    place = Path(workdir).absolute()
    with Bank(place / NAME) as bank:
        settings = bank.get("settings")
    if not settings:
        raise UserError(f"{workdir}: its search never began; give its own command")
    os.chdir(settings["cwd"])  # its paths may be relative
    # The folder may have been moved meanwhile; the last flag wins.
    command = ["-m", "research_env.search", *settings["command"], f"--workdir={place}"]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    cli.run(resume, needs=(), arguments=("WORKDIR",))
