"""A Slurm cluster of one node, on this machine's loopback, while a test needs it.

Real munged, slurmctld and slurmd with a configuration that is thrown away; they run as whoever runs
the tests, so root where jobs are to be other users. SLURM_CONF leads sbatch and its like there.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=2
MinJobAge=300
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


@contextlib.contextmanager
def slurm_cluster(cpus: int = 4, memory_mb: int = 32_000) -> Iterator[Path]:
    """Its folder, with the logs; as many cores as are said, whether the machine has them or not."""
    # Not in pytest's folder, whose path may be too long for a socket.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    daemons: list[subprocess.Popen[bytes]] = []
    before = os.environ.get("SLURM_CONF")
    try:
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.touch(mode=0o400)
        with open(os.open(key, os.O_WRONLY | os.O_TRUNC), "wb") as file:
            file.write(secrets.token_bytes(128))
        configuration = folder / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(
                host=socket.gethostname().partition(".")[0],
                controller=_free_port(),
                daemon=_free_port(),
                user=pwd.getpwuid(os.getuid()).pw_name,
                folder=folder,
                cpus=cpus,
                memory=memory_mb,
            )
        )
        os.environ["SLURM_CONF"] = str(configuration)
        munge = [f"--{what}-file={folder}/munge.{what}" for what in ("key", "pid", "log", "seed")]
        _start(
            daemons, "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge
        )
        _wait_for((folder / "munge.socket").exists, daemons, folder)
        _start(daemons, "slurmctld", "-D", "-f", str(configuration))
        _start(daemons, "slurmd", "-D", "-f", str(configuration))
        _wait_for(_idle, daemons, folder)
        yield folder
    finally:
        subprocess.run(["scancel", "--user", str(os.getuid())], capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()
            daemon.wait()
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _start(daemons: list[subprocess.Popen[bytes]], name: str, *arguments: str) -> None:
    program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert program, f"{name} is missing: make slurm"
    daemons.append(
        subprocess.Popen(
            [program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    )


def _wait_for(condition, daemons: list[subprocess.Popen[bytes]], folder: Path) -> None:
    end = time.monotonic() + 600
    while not condition():
        dead = [daemon.args for daemon in daemons if daemon.poll() is not None]
        if dead or time.monotonic() > end:
            logs = [
                f"{log.name}: {log.read_text(errors='replace')[-2000:]}"
                for log in folder.glob("*.log")
            ]
            raise RuntimeError(f"no Slurm: {dead or 'not idle after 60 s'}", *logs)
        time.sleep(0.05)


def _idle() -> bool:
    done = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True)
    return done.stdout.strip() in ("idle", "mixed", "allocated")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
