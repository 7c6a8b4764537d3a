"""A job to be done, and an engine that does it: for the tests beside this, in this process and in
others.
"""

import dataclasses
import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

from sbp_jax import cli
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Corpus, Document, open_corpus, read_documents
from sbp_jax.errors import UserError
from sbp_jax.inference import bulk
from sbp_jax.inference.bulk.output import read_answers
from sbp_jax.inference.engine import Completion, EngineDied, Request, Sampling

FOLDER = Path(__file__).parent
SAMPLING = Sampling(max_tokens=12)
CONTEXT = 2_000  # characters
PRICE = 0.001  # of a token
WORDS = ["so", "it", "went", "on", "and", "ünd", "wëiter", "😀"]


class Words:
    """Answers with words that the request alone decides, a word a token, in any order."""

    def __init__(self, window=1, delay=0.0, die_at=(), log=None, fingerprint="words"):
        self.window, self.delay, self.die_at = window, delay, set(die_at)
        self.log, self.fingerprint = log, fingerprint
        self.asked: list[Request] = []
        self.answered = 0
        self.closed = False

    def generate(self, requests):
        held, order = [], random.Random(self.window)
        for request in requests:
            self.asked.append(request)
            if self.log:  # shared by processes
                with open(self.log, "a") as file:
                    file.write(f"{request.id}\n")
            held.append(request)
            if len(held) == self.window:
                yield self._answer(held.pop(order.randrange(len(held))))
        while held:
            yield self._answer(held.pop(order.randrange(len(held))))

    def _answer(self, request):
        if self.answered in self.die_at:
            self.die_at.discard(self.answered)
            raise EngineDied("out of memory")
        self.answered += 1
        time.sleep(self.delay)
        prompt = request.prompt if isinstance(request.prompt, str) else repr(request.prompt)
        for wrong, reason in (
            (len(prompt) > CONTEXT, "longer than the context"),
            (not prompt.strip(), "empty"),
            ("\0" in prompt, "NUL characters"),
        ):
            if wrong:
                return Completion(request.id, "", "error", error=reason)
        draw = random.Random(f"{prompt} {request.seed} {request.sampling}")
        count = draw.randrange(1, request.sampling.max_tokens + 1)
        text = " ".join(draw.choice(WORDS) for _ in range(count))
        asked = self.prompt_tokens(prompt)
        return Completion(
            request.id, text, "stop", asked, count, cost=self.cost(asked, count)
        )  # fmt: skip

    def prompt_tokens(self, prompt):
        return len(prompt) // 4 + 1

    def cost(self, prompt_tokens, new_tokens):
        return PRICE * (prompt_tokens + new_tokens)

    def close(self):
        self.closed = True


class Flaky(Words):
    """Fails every third request, for a few tokens."""

    def _answer(self, request):
        completion = super()._answer(request)
        if request.seed % 3:
            return completion
        return Completion(request.id, "", "error", 2, 3, cost=self.cost(2, 3), error="HTTP 500")


@dataclasses.dataclass(frozen=True)
class Texts:
    name: str
    texts: tuple[str, ...]
    bad: int = 0

    def read(self, on_bad_row):
        for i in range(self.bad):
            on_bad_row(UserError(f"{self.name}:{i}: broken"))
        for i, text in enumerate(self.texts):
            yield Document(f"{self.name}:{i}", text, "texts")


def corpus_of(*shards, **kwargs):
    shards = tuple(tuple(shard) for shard in shards)
    texts = [Texts(f"shard/{i}", shard, **kwargs) for i, shard in enumerate(shards)]
    return Corpus("test", texts, hashlib.sha256(repr(shards).encode()).hexdigest())


def job_of(corpus, prompt="On {text}: ", **kwargs):
    template = bulk.Template(prompt, kwargs.pop("sampling", SAMPLING), **kwargs)
    return bulk.Job(corpus, template, dataclasses.asdict(template), part_documents=7)


SHARDS = [[f"document {i} of {shard}" for i in range(20)] for shard in range(3)]
CORPUS = corpus_of(*SHARDS)
JOB = job_of(CORPUS, per_document=2)
SMALL = job_of(corpus_of(SHARDS[0]))


def start(output, delay=0.0, window=4, log=None, job="JOB", retry=""):
    """The same job in a process of its own; `log` is a file of the requests' ids."""
    script = f"import sys; sys.path.append({str(FOLDER)!r}); import bulk_jobs; bulk_jobs.main()"
    arguments = [
        str(word) for word in (output, delay, window, log or output.parent / "log", job, retry)
    ]
    return subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-c", script, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def main():
    output, delay, window, log, job, retry = sys.argv[1:]
    sys.argv = sys.argv[:1]
    engine = Words(int(window), float(delay), log=log)

    def work():
        manifest = bulk.run(globals()[job], output, lambda: engine, retry_errors=bool(retry))
        print(manifest["rows"])

    cli.run(work, needs=())


def run(output, job=JOB, engine=None, **kwargs):
    engine = engine or Words()
    return bulk.run(job, output, lambda: engine, **kwargs), engine


def hashes(output):
    """Of the corpus: the Parquet files and the manifest."""
    found = [p for p in Path(output).iterdir() if p.is_file()]
    assert all(p.name == "manifest.json" or p.name.startswith("part-") for p in found), found
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def rows(output):
    return list(read_documents(open_corpus(str(output), Experiment()), "stop"))


def answers(output):
    """All that the journals hold."""
    return [a for path in Path(output).glob("journal/*.journal") for a in read_answers(path)]


def no_engine():
    raise UserError("no such model")
