"""What a language model says of pairs (d1, d2): about the same subject, free of false statements?

The prompts are the files of prompts/, and their hashes stand in every result. Each pair is a row of
a bulk job, so no question is asked twice. The same judge answers questions whose answers are known,
and how often it is right stands beside what it says. In both questions "no" is the bad answer; one
that is neither yes nor no counts as unclear and for nothing else.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Document, open_corpus, read_documents, write_corpus
from sbp_jax.inference import bulk
from sbp_jax.inference.bulk.job import Ask
from sbp_jax.inference.engine import EngineOpener, Prompt, Sampling

PROMPTS = Path(__file__).with_name("prompts")
NAMES = ("related", "factual")


class Case(NamedTuple):
    """A pair to be judged; `right` is the answer of one to calibrate with."""

    group: str
    id: str
    d1: str
    d2: str
    questions: tuple[str, ...] = NAMES
    right: bool | None = None


def prompts() -> dict[str, str]:
    return {name: (PROMPTS / f"{name}.txt").read_text().strip() for name in NAMES}


def hashes() -> dict[str, str]:
    return {name: files.sha256(text.encode()) for name, text in prompts().items()}


@dataclass(frozen=True)
class Questions:
    """Of a document that holds a case."""

    prompts: Mapping[str, str]
    sampling: Sampling
    chat: bool

    def __call__(self, document: Document) -> Iterator[Ask]:
        meta = json.loads(document.meta)
        texts = {"d1": meta["d1"], "d2": document.text}
        for name in meta["questions"]:
            # In one go: a document may itself hold {d2}.
            text = re.sub(r"\{(d1|d2)\}", lambda m: texts[m[1]], self.prompts[name])
            prompt: Prompt = ({"role": "user", "content": text},) if self.chat else text
            yield {"question": name}, prompt, self.sampling


def judge(
    experiment: Experiment, cases: Iterable[Case], engine: EngineOpener, folder: Path
) -> dict[str, Any]:
    """What the engine says of each group: {group: {question: {yes, no, unclear, unanswered}}}, and
    under "calibration" its mistakes. `folder` belongs to these cases.
    """
    q = experiment.quality
    if not files.has_manifest(folder / "cases"):
        rows = (
            Document(
                f"{case.group}/{case.id}",
                case.d2,
                case.group,
                json.dumps({"d1": case.d1, "questions": case.questions, "right": case.right}),
            )
            for case in cases
        )
        write_corpus(rows, folder / "cases")
    corpus = open_corpus(str(folder / "cases"), experiment)
    sampling = Sampling(q.answer_tokens, temperature=0.0)
    ask = Questions(prompts(), sampling, q.chat)
    settings = {"prompts": hashes(), "chat": q.chat, "sampling": sampling.settings()}
    job = bulk.Job(corpus, ask, settings, experiment.seed)
    bulk.run(job, folder / "answers", engine, model=engine.fingerprint())
    said: dict[tuple[str, str], str] = {}
    for answer in read_documents(open_corpus(str(folder / "answers"), experiment), "stop"):
        meta = json.loads(answer.meta)
        said[meta["document"], meta["arguments"]["question"]] = _read(answer.text)
    return _counted(read_documents(corpus, "stop"), said)


def _read(answer: str) -> str:
    """The first of the words yes and no, which a judge may give a reason for afterwards."""
    found = re.search(r"\b(yes|no)\b", answer.lower())
    return found[1] if found else "unclear"


def _counted(cases: Iterable[Document], said: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    groups: dict[str, dict[str, dict[str, int]]] = {}
    known: dict[str, list[tuple[bool, str]]] = {name: [] for name in NAMES}
    for case in cases:
        meta = json.loads(case.meta)
        for name in meta["questions"]:
            answer = said.get((case.id, name), "unanswered")
            if meta["right"] is None:
                counts = groups.setdefault(case.source, {}).setdefault(
                    name, {"yes": 0, "no": 0, "unclear": 0, "unanswered": 0}
                )
                counts[answer] += 1
            else:
                known[name].append((meta["right"], answer))
    return {"groups": groups, "calibration": {name: rates(k) for name, k in known.items()}}


def rates(known: Sequence[tuple[bool, str]]) -> dict[str, float | None]:
    """Of what is good or not, and what the judge has called it, "yes" or "no" or nothing clear."""
    called = [(is_good, answer == "yes") for is_good, answer in known if answer in ("yes", "no")]
    good = sum(is_good for is_good, _ in called)
    bad = len(called) - good
    false_alarms = sum(is_good and not yes for is_good, yes in called)
    missed = sum(yes and not is_good for is_good, yes in called)
    right = len(called) - false_alarms - missed
    return {
        "questions": len(called),
        "unclear": len(known) - len(called),
        "accuracy": right / len(called) if called else None,
        "false_positive_rate": false_alarms / good if good else None,  # good called bad
        "false_negative_rate": missed / bad if bad else None,
        "good": good,
        "bad": bad,
    }


def corrected(rate: float, count: int, known: Mapping[str, Any]) -> dict[str, float] | None:
    """The share of bad ones of which a judge with such mistakes would say `rate` (Rogan and Gladen,
    1978), with its standard error, that of the calibration included. None where the judge is no
    better than a coin.
    """
    if known["false_positive_rate"] is None or known["false_negative_rate"] is None or not count:
        return None
    found, passed = 1 - known["false_negative_rate"], 1 - known["false_positive_rate"]
    better = found + passed - 1
    if better <= 0:
        return None
    share = min(1.0, max(0.0, (rate + passed - 1) / better))
    variance = rate * (1 - rate) / count
    variance += share**2 * found * (1 - found) / known["bad"]
    variance += (1 - share) ** 2 * passed * (1 - passed) / known["good"]
    return {"value": share, "stderr": math.sqrt(variance) / better}


def identity(engine: EngineOpener) -> dict[str, Any]:
    """Who judges, by which prompts."""
    model = engine.experiment.api.model if engine.kind == "api" else engine.checkpoint
    return {
        "engine": engine.kind,
        "model": model,
        "fingerprint": engine.fingerprint(),
        "prompts": hashes(),
    }
