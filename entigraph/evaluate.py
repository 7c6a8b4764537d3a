"""What a model knows of a library of articles, with and without them, and what it has forgotten.

    python -m entigraph.evaluate --questions=quality.train,quality.dev --checkpoint=runs/after \\
        --mode=closed_book,open_book --output=scores/after --against=scores/before
    python -m entigraph.evaluate --questions=Q --engine=api --config=configs/my_server.py --chat \\
        --output=W
    python -m entigraph.evaluate --mode=forgetting --general=general.jsonl \\
        --checkpoint=runs/after --output=W
    python -m entigraph.evaluate --scaling=0:W0,1e6:W1,1e7:W2,1e8:W3 --output=W

Modes: closed_book, likelihood, open_book, summaries, forgetting; several with commas between them.
W/results.json has all scores of the model, W/outcomes what it got on each question. The same
command goes on after an interruption; other modes of the same model are added. --against compares
question by question with an earlier W. Exit codes: 0, 3 when --max_tokens or --max_cost ended it, 2
for a mistake, 130 after Ctrl-C.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import functools
import logging
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from entigraph.evaluation import results
from entigraph.evaluation.asking import Asker, Budget, DryRun, Prompts
from entigraph.evaluation.closed_book import STOP
from entigraph.evaluation.questions import SPLITS, Article, read_questions, split
from sbp_jax import config as config_lib
from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.errors import UserError
from sbp_jax.inference.bulk import BudgetSpent
from sbp_jax.inference.bulk.output import local_folder
from sbp_jax.inference.engine import EngineOpener, Sampling

MODES = ("closed_book", "likelihood", "open_book", "summaries", "forgetting")
KINDS = ["jax", "vllm", "api"]
QUESTIONS = flags.DEFINE_string("questions", None, "QuALITY's JSONL, or one's own in its form.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of the results.")
MODE = flags.DEFINE_list("mode", ["closed_book"], f"Of {', '.join(MODES)}.")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run, checkpoint or Hugging Face folder.")
ENGINE = flags.DEFINE_enum("engine", "jax", KINDS, "What generates.")
NAME = flags.DEFINE_string("name", "", "How tables call the model.")
SPLIT = flags.DEFINE_enum("split", "all", SPLITS, "Articles of closed_book and likelihood.")
SAMPLES = flags.DEFINE_integer("samples", 8, "Texts for each question.", lower_bound=1)
TEMPERATURE = flags.DEFINE_float("temperature", 0.1, "Of those.", lower_bound=0)
ANSWER_TOKENS = flags.DEFINE_integer("answer_tokens", 300, "Of each at most.", lower_bound=1)
CHAT = flags.DEFINE_bool("chat", False, "A prompt is a user's message: for tuned models.")
MAX_TOKENS = flags.DEFINE_integer("max_tokens", None, "Of prompts and texts, over all runs.")
MAX_COST = flags.DEFINE_float("max_cost", None, "By config.api's prices, over all runs.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Says what the first job would take.")
RETRY_ERRORS = flags.DEFINE_bool("retry_errors", False, "Asks again for what failed before.")
INPUT = flags.DEFINE_string("input", None, "open_book: library; else the questions' articles.")
SWEEP = flags.DEFINE_string("sweep", "", "open_book: chunk=512+1024,k=4+8,order=first+last, ...")
INDEX = flags.DEFINE_enum("index", "jax", ["jax", "faiss"], "open_book: what searches.")
RERANKER = flags.DEFINE_string(
    "reranker", "none", "open_book: none, likelihood, judge, or a cross-encoder's folder."
)
REFERENCES = flags.DEFINE_string("references", None, "summaries: JSONL of article_id, summary.")
JUDGE = flags.DEFINE_enum("judge", None, KINDS, "The engine that judges summaries and passages.")
JUDGE_CHECKPOINT = flags.DEFINE_string("judge_checkpoint", None, "Its model.")
JUDGE_CONFIG = config_flags.DEFINE_config_file("judge_config", None, "Its config; else --config.")
GENERAL = flags.DEFINE_string("general", None, "forgetting: general text, as data.input.")
SUITE = flags.DEFINE_string("suite", None, "forgetting: sbp, or tasks of lm-eval.")
TASKS_DIR = flags.DEFINE_string("tasks_dir", "", "Folder with rows for --suite.")
LIMIT = flags.DEFINE_integer("limit", None, "forgetting: documents of a task.", lower_bound=1)
AGAINST = flags.DEFINE_string("against", None, "Results to compare with: the model before.")
SCALING = flags.DEFINE_string("scaling", None, "TOKENS:FOLDER of results, commas between them.")
log = logging.getLogger(__name__)


def main() -> None:
    experiment = cli.experiment() if cli.CONFIG.value else Experiment()
    folder = local_folder(OUTPUT.value or "")
    if SCALING.value is not None:
        from entigraph.laws import scaling_points

        return scaling_points.report(SCALING.value, folder, experiment.seed)
    modes = _modes()
    articles = read_questions(QUESTIONS.value) if QUESTIONS.value else []
    with files.exclusive(folder / ".lock", f"{folder}: another process evaluates here"):
        try:
            recorded = Evaluation(experiment, folder, articles).run(modes)
        except DryRun:
            log.info("what later jobs take depends on the answers of this one")
            return
        except BudgetSpent as stop:
            log.info("%s", stop)
            sys.exit(3)
    text = results.markdown(recorded)
    files.write_bytes(folder / "table.md", text.encode())
    print(text, end="")
    if AGAINST.value:
        compare(AGAINST.value, folder, experiment.seed)
    log.info("%s", folder / "results.json")


class Evaluation:
    """Of one model."""

    def __init__(self, experiment: Experiment, folder: Path, articles: list[Article]):
        self.experiment, self.folder, self.articles = experiment, folder, articles
        self.prompts = Prompts(experiment.entigraph.prompts)
        self.budget = Budget(MAX_TOKENS.value, MAX_COST.value)
        export = str(folder / "model")
        self.engine = EngineOpener(ENGINE.value, experiment, CHECKPOINT.value, export)
        with cli.ending_at_interrupt():
            self.identity = {"model": self.engine.fingerprint(), "engine": ENGINE.value}
        self.ask = self.asker(experiment, self.engine, CHAT.value)

    def run(self, modes: list[str]) -> dict[str, Any]:
        entries = results.earlier(self.folder, self.identity, self.articles)
        told: dict[str, Any] = {
            "name": NAME.value or CHECKPOINT.value or self.experiment.api.model,
            "checkpoint": CHECKPOINT.value,
            **self.identity,
            "questions": QUESTIONS.value,
        }
        recorded: dict[str, Any] = {}
        for mode in modes:  # each is kept as soon as it is there
            entries |= getattr(self, mode)()
            told["prompts"] = self.prompts.hashes
            recorded = results.assemble(told, entries, self.folder, self.experiment.seed)
            files.write_json(self.folder / "results.json", recorded)
        return recorded

    def closed_book(self) -> dict[str, Any]:
        from entigraph.evaluation.closed_book import closed_book

        sampling = Sampling(ANSWER_TOKENS.value, TEMPERATURE.value, stop=STOP)
        some = split(self.articles, SPLIT.value)
        seed = self.experiment.seed
        found = closed_book(some, self.ask, self.prompts, sampling, SAMPLES.value, seed)
        return {"closed_book": self.write("closed_book", some, found)}

    def likelihood(self) -> dict[str, Any]:
        from entigraph.evaluation.likelihood import likelihood

        some = split(self.articles, SPLIT.value)
        found = likelihood(some, self.sampler, self.prompts)
        return {name: self.write(name, some, outcomes) for name, outcomes in found.items()}

    def open_book(self) -> dict[str, Any]:
        from entigraph.evaluation import open_book, retrieval
        from entigraph.library import read_library

        e = self.experiment
        library = [article.text for article in self.articles]
        if INPUT.value:
            library = read_library(INPUT.value, e)
        embedder = retrieval.open_embedder(e, CHECKPOINT.value)
        book = open_book.OpenBook(
            library,
            self.folder,
            self.ask,
            self.prompts,
            embedder,
            INDEX.value,
            open_book.reranker(RERANKER.value, self.judge, self.prompts, lambda: self.sampler),
            {
                "pairing": vars(e.pairing),
                "reranker": RERANKER.value,
                "judge": self.judge.engine.fingerprint() if RERANKER.value == "judge" else "",
                **self.identity,
            },
            SAMPLES.value,
            ANSWER_TOKENS.value,
            STOP,
            e.seed,
        )
        found = book.run(self.articles, open_book.parse_sweep(SWEEP.value))
        outcomes = found.pop("outcomes")
        entry = self.write("open_book", split(self.articles, "test"), outcomes)
        return {"open_book": entry | {"open_book": found}}

    def summaries(self) -> dict[str, Any]:
        from entigraph.evaluation.summaries import read_references, summaries

        if not (REFERENCES.value and JUDGE.value):
            raise UserError("--mode=summaries needs --references=FILE and --judge=ENGINE")
        details, scores = summaries(
            self.articles,
            read_references(REFERENCES.value),
            self.ask,
            self.judge,
            self.prompts,
            ANSWER_TOKENS.value,
            TEMPERATURE.value,
        )
        judge = {"engine": self.judge.engine.kind, "model": self.judge.engine.fingerprint()}
        entry = scores.write(self.folder, "summaries")
        return {"summaries": entry | {"summaries": details | {"judge": judge}}}

    def forgetting(self) -> dict[str, Any]:
        from entigraph.evaluation import forgetting

        if not (GENERAL.value or SUITE.value):
            raise UserError("--mode=forgetting needs --general=CORPUS or --suite=sbp, or both")
        entries = {}
        if GENERAL.value:
            entries[forgetting.GENERAL] = forgetting.general_text(
                self.sampler, GENERAL.value, self.experiment, self.folder, LIMIT.value
            )
        if SUITE.value:
            entries |= forgetting.suite(
                self.sampler, SUITE.value, TASKS_DIR.value, self.folder, self.identity, LIMIT.value
            )
        return entries

    def write(self, task: str, articles: list[Article], outcomes: Any) -> dict[str, Any]:
        from entigraph.evaluation import outcomes as written

        return written.write(self.folder, task, articles, outcomes)

    def asker(self, experiment: Experiment, engine: EngineOpener, chat: bool) -> Asker:
        jobs, again, dry = self.folder / "jobs", RETRY_ERRORS.value, DRY_RUN.value
        return Asker(experiment, engine, jobs, self.budget, chat, again, dry)

    @functools.cached_property
    def judge(self) -> Asker:
        """Who judges summaries and passages: another engine, or the same."""
        if not JUDGE.value:
            return self.ask
        e = config_lib.resolve(JUDGE_CONFIG.value) if JUDGE_CONFIG.value else self.experiment
        export = str(self.folder / "judge_model")
        engine = EngineOpener(JUDGE.value, e, JUDGE_CHECKPOINT.value, export)
        return self.asker(e, engine, e.entigraph.chat)

    @functools.cached_property
    def sampler(self) -> Any:
        """The model itself: a server gives no log-likelihoods of texts."""
        if not CHECKPOINT.value:
            raise UserError("--checkpoint is missing: log-likelihoods need the model itself")
        from sbp_jax.inference.sampler import Sampler

        return Sampler.from_checkpoint(CHECKPOINT.value, self.experiment.engine)


def compare(before: str, folder: Path, seed: int) -> None:
    """Question by question; written beside the results."""
    from entigraph.evaluation.forgetting import new_without_loss
    from sbp_jax.evaluation.compare import compare
    from sbp_jax.evaluation.scores import Results

    comparison = compare([Results.read(before), Results.read(folder)], seed=seed)
    comparison.write(folder)
    print(f"\n{comparison.markdown()}", end="")
    if found := new_without_loss(comparison):
        files.write_json(folder / "new_without_loss.json", found)
        gained, rise = found["accuracy_gained"], found["perplexity_rise"]
        print(
            f"\nNew knowledge without loss of the old: {'yes' if found['holds'] else 'no'}. "
            f"Gained {_percent(gained)} points of accuracy ({found['knowledge']}); "
            f"perplexity of general text {_percent(rise)}%."
        )


def _percent(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{100 * found['value']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def _modes() -> list[str]:
    modes = list(dict.fromkeys(mode.strip() for mode in MODE.value))
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise UserError(f"--mode={unknown[0]}: there are {', '.join(MODES)}")
    if not modes:
        raise UserError(f"--mode is empty: name some of {', '.join(MODES)}")
    if MAX_COST.value is not None and "api" not in (ENGINE.value, JUDGE.value):
        raise UserError("--max_cost is no limit where nothing has a price; use --max_tokens")
    if not QUESTIONS.value and set(modes) != {"forgetting"}:
        raise UserError("--questions is missing: a file of four-way questions; see --help")
    return modes


if __name__ == "__main__":
    cli.run(main, needs=("output",))
