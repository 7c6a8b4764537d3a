"""What a bulk job costs beside its engine: requests/s, memory, and its overhead over a real one.

    python bench/bulk.py
    python bench/bulk.py --requests=10000000     # memory over a long job
    python bench/bulk.py --checkpoint=runs/laptop --documents=512 --repeats=5

The null engine answers at once. With a checkpoint, the job's wall time is divided by that of `for
completion in engine.generate(requests)` on the same requests: A B B A, medians.
"""

import argparse
import dataclasses
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Corpus, Document
from sbp_jax.inference import bulk
from sbp_jax.inference.engine import Completion, EngineOpener, Request, Sampling

ANSWER = "a text like any other, " * 5


class Null:
    def __init__(self, fingerprint: str = "null"):
        self.fingerprint = fingerprint
        self.asked: list[Request] | None = None

    def generate(self, requests):
        for request in requests:
            if self.asked is not None:
                self.asked.append(request)
            yield Completion(request.id, ANSWER, "stop", 100, 30)

    def prompt_tokens(self, prompt):
        return len(prompt)

    def cost(self, prompt_tokens, new_tokens):
        return 0.0

    def close(self):
        pass


class Unclosed:
    """An engine that outlives its jobs."""

    def __init__(self, engine):
        self.fingerprint, self.generate = engine.fingerprint, engine.generate

    prompt_tokens, cost, close = Null.prompt_tokens, Null.cost, Null.close


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Documents of 300 characters, made as they are read."""

    name: str
    documents: int

    def read(self, on_bad_row):
        text = "what a document says, more or less, " * 8
        for i in range(self.documents):
            yield Document(f"document-{i}", f"{i} {text}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=300_000, help="to the null engine")
    parser.add_argument("--checkpoint", default="", help="of a real engine: a run")
    parser.add_argument("--engine", default="jax", choices=["jax", "vllm"])
    parser.add_argument("--documents", type=int, default=512, help="for the real engine")
    parser.add_argument("--new_tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    null_engine(flags.requests)
    if flags.checkpoint:
        overhead(flags)


def make_job(documents: int, new_tokens: int) -> bulk.Job:
    corpus = Corpus("numbers", [Numbers("numbers", documents)], f"numbers {documents}")
    template = bulk.Template("{text}", Sampling(max_tokens=new_tokens))
    return bulk.Job(corpus, template, dataclasses.asdict(template))


def run(job: bulk.Job, engine) -> float:
    """Its wall time in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        return seconds(lambda: bulk.run(job, folder, lambda: engine))


def null_engine(requests: int) -> None:
    job, samples, done = make_job(requests, 32), [], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            samples.append(resident_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.process_time()
    took = run(job, Null())
    cpu = time.process_time() - start
    done.set()
    watcher.join()
    third = len(samples) // 3
    middle, end = samples[third : 2 * third], samples[2 * third :]
    print(
        f"null engine: {requests:,} requests, {requests / took:,.0f} requests/s, "
        f"{requests / cpu:,.0f} for each second of a core"
    )
    print(
        f"memory: peak {max(samples):,.0f} MiB; last third / second third of the time "
        f"{statistics.median(end) / statistics.median(middle or end):.3f}"
    )


def overhead(flags: argparse.Namespace) -> None:
    engine = EngineOpener(flags.engine, Experiment(), flags.checkpoint, f"{flags.checkpoint}/hf")()
    job, recorder = make_job(flags.documents, flags.new_tokens), Null(engine.fingerprint)
    requests: list[Request] = []
    recorder.asked = requests
    run(job, recorder)

    def bare() -> float:
        return seconds(lambda: len(list(engine.generate(iter(requests)))))

    def whole() -> float:
        return run(job, Unclosed(engine))

    bare()  # compiles
    measured: dict[Callable[[], float], list[tuple[float, float]]] = {bare: [], whole: []}
    for _ in range(flags.repeats):
        for side in (bare, whole, whole, bare):
            start = time.process_time()
            measured[side].append((side(), time.process_time() - start))
    for i, clock in enumerate(("wall", "CPU")):
        a, b = (statistics.median(times[i] for times in measured[side]) for side in (bare, whole))
        print(f"{flags.engine}, {clock}: engine {a:.3f} s, job {b:.3f} s; job / engine {b / a:.4f}")
    engine.close()


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
