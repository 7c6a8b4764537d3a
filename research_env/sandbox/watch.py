"""What a tree of processes uses, from /proc: memory, CPU time, threads.

Only the standard library: this runs inside the sandbox's outer shell, where nothing else is.
Memory is measured three times, each exacter and dearer than the one before, and the next only where
the last is above the limit: resident pages; without those of files, which the kernel can drop; and
with a page that N processes share counted once (reading that walks all page tables).
"""

import contextlib
import os

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage:
    """Of one program over its life; `look` again and again."""

    def __init__(self) -> None:
        self.threads = 0
        self.resident = 0  # bytes, files' pages among them
        self._seen: dict[tuple[int, int], int] = {}  # (pid, start): its own ticks
        self._ticks = 0
        self._gone = 0

    @property
    def cpu_seconds(self) -> float:
        """The larger of two counts: what the living and the children that they waited for have
        used, and the last that was seen of everything that ever lived.
        """
        return max(self._ticks, self._gone + sum(self._seen.values())) / TICKS

    def look(self, pids: list[int]) -> None:
        self.threads = self.resident = ticks = 0
        seen = {}
        for pid in pids:
            with contextlib.suppress(OSError, ValueError):
                with open(f"/proc/{pid}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                own, waited = (sum(map(int, fields[i : i + 2])) for i in (11, 13))
                self.threads += int(fields[17])
                self.resident += int(fields[21]) * PAGE
                ticks += own + waited
                seen[pid, int(fields[19])] = own
        for process, own in self._seen.items():
            if process not in seen:
                self._gone += own
        self._seen = seen
        self._ticks = max(self._ticks, ticks)

    def memory_above(self, limit: int, pids: list[int]) -> int:
        """Bytes, or 0 where it is not above the limit; after `look`."""
        if self.resident <= limit:
            return 0
        for file, names in (
            ("status", (b"RssAnon", b"RssShmem", b"VmSwap")),
            ("smaps_rollup", (b"Pss_Anon", b"Pss_Shmem", b"SwapPss")),
        ):
            total = sum(_kilobytes(pid, file, names) for pid in pids) << 10
            if total <= limit:
                return 0
        return total


def _kilobytes(pid: int, file: str, names: tuple[bytes, ...]) -> int:
    try:
        with open(f"/proc/{pid}/{file}", "rb") as lines:
            found = [line.split()[1] for line in lines if line.partition(b":")[0] in names]
        return sum(map(int, found))
    except PermissionError:  # it has hidden its maps: the coarser measure holds
        return _kilobytes(pid, "status", (b"RssAnon", b"RssShmem", b"VmSwap"))
    except (OSError, ValueError):  # gone
        return 0


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants(of: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for pid in processes():
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{pid}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
            parents.setdefault(parent, []).append(pid)
    found, todo = [], [of]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found
