"""Workdirs of searches, made through the bank's own interface, and a browser to look at them."""

import contextlib
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from research_env import bank
from research_env.bank import Bank
from research_env.dashboard.live import Live
from research_env.dashboard.server import Server
from research_env.outcome import Outcome, State
from research_env.researcher.interface import Proposal

DIFF = """diff --git a/train.py b/train.py
--- a/train.py
+++ b/train.py
@@ -10,5 +10,6 @@ def schedule(step):
     # linear warm-up, then cosine
     if step < WARMUP:
         return step / WARMUP
-    rate = 0.0015 * cosine(step)
+    rate = {rate} * cosine(step)
+    rate = max(rate, FLOOR)
     return rate
"""
FAILURES = {
    State.CRASHED: "ValueError: operands could not be broadcast together (4, 8) (8, 4)",
    State.TIMED_OUT: "after 120 s of wall clock",
    State.OUT_OF_MEMORY: "more than 2048 MB",
    State.PATCH_FAILED: "train.py: hunk 1 does not apply",
    State.TAMPERED: "eval/score.py was changed",
    State.INVALID_METRIC: "score nan is not in [0, 20]",
}
BEGUN = 1_790_000_000.0


class Search:
    """A workdir with a bank that is being filled."""

    def __init__(self, workdir: Path, **meta: Any):
        self.workdir = workdir
        workdir.mkdir(parents=True, exist_ok=True)
        self.bank = Bank(workdir / bank.NAME, write=True)
        facts = {
            "env": "nanogpt", "size": "laptop", "seed": 0, "metric": "loss",
            "direction": "minimize", "budget": {"ideas": 256}, "strategy": "evolution",
            "engine": "mutator", "sandbox": "bubblewrap", "version": "0.1.0",
            "noise": 0.004, "started": BEGUN,
        }  # fmt: skip
        for key, value in (facts | meta).items():
            self.bank.set(key, value)

    def run(
        self,
        idea: int,
        outcome: Outcome,
        split: str = "search",
        seed: int = 1,
        attempt: int = 0,
        log: str | None = None,
    ) -> int:
        """One that ends so, its log in the place that the search would give it."""
        self.bank.enqueue(idea, split, seed, attempt)
        claimed = self.bank.claim()
        assert claimed is not None
        place = ""
        if log is not None:
            place = f"runs/{claimed.id}/log.txt"
            (self.workdir / place).parent.mkdir(parents=True, exist_ok=True)
            (self.workdir / place).write_text(log)
        self.bank.finish(claimed.id, outcome, place)
        return claimed.id  # fmt: skip

    def idea(
        self,
        title: str,
        outcome: Outcome | None = None,
        log: str | None = None,
        strategy: str = "evolution",
        **fields: Any,
    ) -> int:
        """Ended, or queued without an outcome."""
        filled = {"text": f"Why: {title}.", "diff": DIFF.format(rate=title), "author": "mutator"}
        number = self.bank.add(Proposal(title=title, **(filled | fields)), strategy)
        if outcome is None:
            self.bank.enqueue(number, "search", 1)
        else:
            self.run(number, outcome, log=log)
            self.bank.conclude(number)
        return number  # fmt: skip

    def baseline(self, *scores: float) -> None:
        self.bank.add(Proposal("Baseline", "", "", kind="baseline"))
        for seed, score in enumerate(scores):
            self.run(0, ok(score), seed=seed)
        self.bank.conclude(0)


def ok(score: float, seconds: float = 61.0, **metrics: float) -> Outcome:
    return Outcome(State.OK, score, seconds, metrics=metrics)


def failed(state: State) -> Outcome:
    return Outcome(state, None, 17.0, FAILURES[state])


def evolve(search: Search, ideas: int, seed: int = 0) -> None:
    """A search that finds something: fresh ideas first, then refinements of the best."""
    draw = random.Random(seed)
    search.baseline(3.255, 3.251, 3.259, 3.254)
    scores: dict[int, float] = {}
    changes = (
        "Raise the peak rate",
        "Halve the warm-up",
        "Tie the embeddings",
        "Longer cosine",
        "Weight decay on matrices only",
        "Squared ReLU",
        "A larger batch at the end",
    )
    for i in range(ideas):
        title = f"{draw.choice(changes)}: {draw.random():.7f}"
        best = sorted(scores, key=scores.__getitem__)[:8]
        kind = "fresh" if i < ideas / 4 else draw.choice(("exploit", "exploit", "explore"))
        parents = tuple(draw.sample(best, min(len(best), draw.choice((1, 1, 2)))))
        parents = parents if kind != "fresh" else ()
        if draw.random() < 0.2:
            state = draw.choice(list(FAILURES))
            search.idea(title, failed(state), log="step 0\nstep 1\n", kind=kind, parents=parents)
            continue
        above = min((scores[p] for p in parents), default=3.255) if kind == "exploit" else 3.255
        score = above + draw.gauss(0.004, 0.012)
        number = search.idea(title, ok(score, train_loss=score - 0.01), kind=kind,
                             parents=parents, cost=0.01, tokens=900,
                             log=f"step 0 loss 10.9\nloss {score}\n")  # fmt: skip
        scores[number] = score


@pytest.fixture
def search(tmp_path: Path) -> Callable[..., Search]:
    return lambda name="W", **meta: Search(tmp_path / name, **meta)


@contextlib.contextmanager
def served(workdir: Path, host: str = "127.0.0.1", token: str = "") -> Iterator[Server]:
    """A live page, on a free port."""
    live = Live(workdir)
    with Server(live, host, 0, token) as server:
        live.watch()
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    assert program, "no Chromium: `make test` installs Debian's; or apt-get install chromium"
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-component-update",
             "--disable-background-networking", "--disable-sync"]  # fmt: skip
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=flags)
        yield opened
        opened.close()


HOSTILE = (
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "\" onload='alert(1)' x=\"",
    "<!--<script>", "]]>&lt;&#60;</title></style></svg><svg/onload=alert(1)>",
    "javascript:alert(1)", "{{7*7}}${alert(1)}`", "\u202egnp.exe\u2066 \u0000\u001b[31mred",
    "\x1b]0;title\x07\x1b[2J", "<bdi></bdi><dialog open>", "\u2028alert(1)\u2029//",
    "Z\u0351\u036b\u0343\u036a" * 30, "W" * 5000, "__proto__", "constructor",
)  # fmt: skip


@pytest.fixture
def hostile(search: Callable[..., Search]) -> Search:
    """A bank of which every text is an attack."""
    made = search("hostile", env=HOSTILE[0], metric=HOSTILE[2], strategy=HOSTILE[1],
                  engine=HOSTILE[4], version=HOSTILE[5], verdict={"said": HOSTILE[1]})  # fmt: skip
    made.baseline(3.2, 3.21)
    for i, text in enumerate(HOSTILE):
        bad = Outcome(State.CRASHED, None, 1.0, text)
        diff = f"--- a/{text}\n+++ b/{text}\n@@ -1 +1 @@\n-{text}\n+{i}{text}\n"
        fields = dict(text=text, diff=diff, author=text, strategy=text, niche=text)
        fields["context"] = f"{text} context"
        fields["parents"] = (i,) if i else ()
        number = made.idea(text, ok(3.1 - i / 100, **{text: 1.0}), log=text * 3, **fields)
        made.bank.promote(number)
        failed_one = made.idea(text + "!", bad, log=text, **(fields | {"diff": f"{i} {text}"}))
        made.bank.repaired(failed_one, 1, text, Proposal("", "", text))
    return made
