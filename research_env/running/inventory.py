"""What this machine can give to runs at one time: cores, GPUs and memory, each to one run only."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from research_env.sandbox.protocol import Resource
from sbp_jax.errors import UserError

_FOR_OURSELVES = 0.9  # of the memory is lent; the rest is the scheduler's and the system's


class Share(NamedTuple):
    """What one run was given; () where nobody counts it."""

    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()
    memory_mb: int = 0


class Inventory:
    """`slots` above 0 is how many runs there are at most, whatever their cores: for runs that wait,
    as those on a cluster do, which counts its own.
    """

    def __init__(
        self, cores: tuple[int, ...], gpus: tuple[str, ...], memory_mb: int, slots: int = 0
    ):
        self._cores, self._gpus, self._memory = list(cores), list(gpus), memory_mb
        self._slots, self._lent = slots, 0

    def take(self, resource: Resource, memory_mb: int) -> Share | None:
        """None while others hold what it needs."""
        if self._slots:
            if self._lent >= self._slots or resource.gpus > len(self._gpus):
                return None
            share = Share((), self._first_gpus(resource.gpus))
        else:
            enough = resource.cores <= len(self._cores) and resource.gpus <= len(self._gpus)
            if not enough or memory_mb > self._memory:
                return None
            cores, self._cores = self._cores[: resource.cores], self._cores[resource.cores :]
            share = Share(tuple(cores), self._first_gpus(resource.gpus), memory_mb)
            self._memory -= memory_mb
        self._lent += 1
        return share

    def hold(self, share: Share) -> None:
        """What a run already has, which an earlier process of ours gave it."""
        self._cores = [core for core in self._cores if core not in share.cores]
        self._gpus = [gpu for gpu in self._gpus if gpu not in share.gpus]
        self._memory -= share.memory_mb
        self._lent += 1

    def give_back(self, share: Share) -> None:
        self._cores = sorted({*self._cores, *share.cores})
        self._gpus = sorted({*self._gpus, *share.gpus})
        self._memory += share.memory_mb
        self._lent -= 1

    def capacity(self, resource: Resource, memory_mb: int) -> int:
        """How many such runs fit beside each other when nothing is lent."""
        if self._slots:
            by_gpu = len(self._gpus) // resource.gpus if resource.gpus else self._slots
            return min(self._slots, by_gpu)
        fits = [len(self._cores) // resource.cores, self._memory // max(1, memory_mb)]
        fits += [len(self._gpus) // resource.gpus] if resource.gpus else []
        return min(fits)

    def require(self, resource: Resource, memory_mb: int) -> int:
        """The capacity, which is not 0."""
        if capacity := self.capacity(resource, memory_mb):
            return capacity
        raise UserError(
            f"a run needs {resource.cores} cores, {resource.gpus} GPUs and {memory_mb} MB; this "
            f"machine has {len(self._cores)}, {len(self._gpus)} and {self._memory}: choose another "
            "--size or a cluster by --sandbox, or lower env.toml's run.limits.memory_mb"
        )

    def _first_gpus(self, count: int) -> tuple[str, ...]:
        gpus, self._gpus = self._gpus[:count], self._gpus[count:]
        return tuple(gpus)


def of_this_machine(slots: int = 0) -> Inventory:
    cores = tuple(sorted(os.sched_getaffinity(0)))
    return Inventory(cores, _gpus(), int(_memory_mb() * _FOR_OURSELVES), slots)


def elsewhere(slots: int) -> Inventory:
    """A cluster that keeps its own account of cores and GPUs: runs here only wait for it."""
    return Inventory((), (), 0, slots)


def _gpus() -> tuple[str, ...]:
    """As CUDA_VISIBLE_DEVICES names them, which may already say which of them are ours."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1"))
    found = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return tuple(str(number) for number in sorted(int(match[1]) for match in found if match))


def _memory_mb() -> int:
    """Of the machine, or of the container if that has less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            total = min(total, int((Path("/sys/fs/cgroup") / limit).read_text()))
        except (OSError, ValueError):  # no such file, or the word max
            continue
    return total >> 20
