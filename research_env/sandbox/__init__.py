"""Where candidates' code runs. `factory("bubblewrap")` opens sandboxes; protocol.py says what they
are, docs/sandboxes.md what each kind promises.
"""

from research_env.sandbox.protocol import SandboxFactory
from sbp_jax.errors import UserError

KINDS = ("bubblewrap", "docker", "slurm", "ray", "subprocess")


def factory(kind: str, unsafe: bool = False) -> SandboxFactory:
    """Opens sandboxes of this kind; a UserError where this machine cannot."""
    if kind == "bubblewrap":
        from research_env.sandbox import bubblewrap

        bubblewrap.check()
        return bubblewrap.bubblewrap
    raise UserError(f"{kind!r} is no sandbox; there are {', '.join(KINDS)}")
