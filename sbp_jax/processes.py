"""Independent tasks in several processes of this machine, with progress."""

import itertools
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TypeVar

Task = TypeVar("Task")
REPORT_S = 5
log = logging.getLogger(__name__)


def run(
    function: Callable[[Task], object], tasks: Iterable[Task], total: int, workers: int, what: str
) -> None:
    """Runs all tasks, in spawned processes where that can help."""
    start = last = time.monotonic()
    parallel = total > 1 and workers > 1
    results = (
        _in_processes(function, tasks, workers) if parallel else (function(task) for task in tasks)
    )
    for done, _ in enumerate(results, 1):
        now = time.monotonic()
        if now - last > REPORT_S:
            last = now
            left = (now - start) / done * (total - done)
            log.info("%s %d of %d, about %.0f s left", what, done, total, left)


def _in_processes(
    function: Callable[[Task], object], tasks: Iterable[Task], workers: int
) -> Iterator[object]:
    tasks = iter(tasks)
    spawn = multiprocessing.get_context("spawn")
    pool = futures.ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker)
    try:
        # Tasks are made as they are needed: those of the tape are large.
        waiting = {pool.submit(function, task) for task in itertools.islice(tasks, 2 * workers)}
        while waiting:
            finished, waiting = futures.wait(waiting, return_when=futures.FIRST_COMPLETED)
            more = itertools.islice(tasks, len(finished))
            waiting |= {pool.submit(function, task) for task in more}
            for future in finished:
                yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an error need not wait for other shards


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:  # after a kill -9, the pool alone would wait for tasks for ever
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
