"""Whether an environment is sound: it runs, its noise leaves room for improvement, no cheat helps.

    python -m research_env.check template
    python -m research_env.check path/to/my_environment --size=laptop --runs=8

The baseline runs on every split and, with several seeds, on the search split; then each known cheat
(research_env/cheats/, and NAME/cheats/*.diff of the environment's own) is judged as a candidate.
The last line is the verdict. Exit code 1: it is not sound; 2: a mistake of yours.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from research_env import sandbox as sandboxes
from research_env.env import load

SIZE = flags.DEFINE_string("size", "laptop", "Of env.toml's [sizes].", allow_override=True)
SANDBOX = flags.DEFINE_string(
    "sandbox", None, "bubblewrap (usual), docker, slurm, ray or subprocess.", allow_override=True
)
UNSAFE = flags.DEFINE_bool(
    "unsafe", False, "Allows --sandbox=subprocess, which protects nothing.", allow_override=True
)
RUNS = flags.DEFINE_integer("runs", 5, "Of the baseline, to measure its noise.", lower_bound=3)


def main(name_or_path: str) -> None:
    environment = load(name_or_path, SIZE.value)
    factory = sandboxes.factory(SANDBOX.value or "bubblewrap", UNSAFE.value)
    with cli.ending_at_interrupt():  # SciPy is imported here, and not for --help
        from research_env.audit import Audit, Finding
    start = time.monotonic()
    found: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        audit = Audit(environment, factory, Path(folder))
        for finding in audit.findings(RUNS.value):
            found.append(finding)
            print(finding, flush=True)
    faults = [finding for finding in found if not finding.sound]
    seconds = time.monotonic() - start
    cheats = sum(finding.cheat for finding in found)
    if faults:
        first = "; ".join(finding.name for finding in faults[:5])
        print(f"NOT SOUND: {len(faults)} of {len(found)} checks failed: {first} ({seconds:.0f} s)")
        sys.exit(1)
    print(f"sound: {len(found) - cheats} checks, {cheats} cheats, none helps ({seconds:.0f} s)")


if __name__ == "__main__":
    cli.run(main, needs=(), arguments=("NAME_OR_PATH",))
