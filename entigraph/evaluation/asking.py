"""Prompts in, texts out: each through a bulk job, so that no question is paid for twice.

A prompt is a file of prompts/ (or of the user's folder) with places such as {question} in it. What
is asked is a corpus of filled prompts, under the ids of what they are about; its folder keeps what
was ever answered.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entigraph.wording import PROMPTS, filled
from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Corpus, Document, OnBadRow, fingerprint, open_corpus, read_documents
from sbp_jax.errors import UserError
from sbp_jax.inference import bulk
from sbp_jax.inference.bulk.estimate import estimate
from sbp_jax.inference.engine import EngineOpener, Sampling


class DryRun(Exception):
    """The estimate of the first job is told; later ones depend on its answers."""


@dataclass
class Budget:
    """Over all jobs of a command, and over all its runs."""

    max_tokens: int | None = None
    max_cost: float | None = None

    def pay(self, manifest: dict[str, Any]) -> None:
        if self.max_tokens is not None:
            used = manifest["prompt_tokens"] + manifest["tokens"]
            self.max_tokens = max(0, self.max_tokens - used)
        if self.max_cost is not None:
            self.max_cost = max(0.0, self.max_cost - manifest["cost"])


@dataclass(frozen=True)
class Asker:
    """An engine, and where its answers are kept: a folder a job."""

    experiment: Experiment
    engine: EngineOpener
    folder: Path
    budget: Budget
    chat: bool = False  # a prompt is a user's message
    retry_errors: bool = False
    dry_run: bool = False

    def __call__(
        self, name: str, prompts: Iterable[tuple[str, str]], sampling: Sampling, samples: int = 1
    ) -> dict[str, list[str]]:
        """The texts for each (id, prompt); "" stands for one that could not be had."""
        if samples > 1 and not sampling.temperature:
            raise UserError(
                f"--samples={samples} at --temperature=0 is the same text as often; raise one or "
                "lower the other"
            )
        rows = tuple(prompts)
        corpus = Corpus(name, [_Prompts(name, rows)], fingerprint(name, rows))
        template = bulk.Template("{text}", sampling, self.chat, samples)
        settings = vars(template) | {"sampling": sampling.settings()}
        context = 0 if self.engine.kind == "api" else self.experiment.engine.max_length
        job = bulk.Job(corpus, template, settings, self.experiment.seed, context=context)
        output = self.folder / name
        if self.dry_run:
            engine = self.engine()
            try:
                print(f"{name}\n{estimate(job, output, engine)}")
            finally:
                engine.close()
            raise DryRun
        manifest = bulk.run(
            job,
            output,
            self.engine,
            model=self.engine.fingerprint(),
            max_tokens=self.budget.max_tokens,
            max_cost=self.budget.max_cost,
            retry_errors=self.retry_errors,
        )
        self.budget.pay(manifest)
        texts = {id: [""] * samples for id, _ in rows}
        for answer in read_documents(open_corpus(str(output), self.experiment), "stop"):
            meta = json.loads(answer.meta)
            texts[meta["document"]][meta["arguments"]["sample"]] = answer.text
        return texts


@dataclass(frozen=True)
class _Prompts:
    """The shard of a corpus that is in memory."""

    name: str
    rows: tuple[tuple[str, str], ...]

    def read(self, on_bad_row: OnBadRow) -> Iterator[Document]:
        for id, text in self.rows:
            yield Document(id, text)


class Prompts:
    """Prompt files by name: the package's, or the user's where `folder` has one of that name."""

    def __init__(self, folder: str = ""):
        self._folder = folder
        self.hashes: dict[str, str] = {}  # of those that were read, for records

    def fill(self, prompt: str, **values: str) -> str:
        template = self.read(prompt)
        if missing := [name for name in values if f"{{{name}}}" not in template]:
            raise UserError(f"the prompt {prompt}.txt has no {{{missing[0]}}}, which belongs there")
        return filled(template, values)

    def read(self, prompt: str) -> str:
        own = Path(self._folder) / f"{prompt}.txt" if self._folder else None
        path = own if own and own.exists() else PROMPTS / f"{prompt}.txt"
        try:
            text = path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot read: {error}") from error
        self.hashes[prompt] = files.sha256(text.encode())
        return text
