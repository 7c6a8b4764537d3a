"""Where candidates' code runs. `factory("bubblewrap")` opens sandboxes; protocol.py says what they
are, docs/sandboxes.md what each kind promises.
"""

from research_env.sandbox.protocol import SandboxFactory
from sbp_jax.errors import UserError

KINDS = ("bubblewrap", "docker", "slurm", "ray", "subprocess")


def factory(kind: str, unsafe: bool = False) -> SandboxFactory:
    """Opens sandboxes of this kind; a UserError where this machine cannot."""
    # Each is imported only where it is meant: jobs on a cluster start often.
    if kind == "bubblewrap":
        from research_env.sandbox import bubblewrap

        bubblewrap.check()
        return bubblewrap.bubblewrap
    if kind == "slurm":
        from research_env.sandbox import slurm

        slurm.check()
        return slurm.Slurm
    if kind == "docker":
        from research_env.sandbox import docker

        docker.check()
        return docker.Docker
    if kind == "ray":
        from research_env.sandbox import ray

        ray.connect()
        return ray.Ray
    if kind == "subprocess":
        if not unsafe:
            raise UserError(
                "a subprocess confines nothing: candidates' code could read, change and send away "
                "whatever you can; name another sandbox, or add --unsafe if you trust it"
            )
        from research_env.sandbox import subprocess

        return subprocess.Subprocess
    raise UserError(f"{kind!r} is no sandbox; there are {', '.join(KINDS)}")
