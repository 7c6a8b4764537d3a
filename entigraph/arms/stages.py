"""The stages of a study, each in a folder of the workdir W and skipped where it is finished.

W/data              library, questions, general text, and some of it held out
W/model             the toy world's model, pretrained on general text
W/texts/METHOD      what each method makes of the library
W/arms/METHOD-SHARE continued pretraining on a beginning of that, with its texts and its run
W/scores            what each model knows: before, and after each arm
"""

import dataclasses
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entigraph.arms import niche, rewriter
from entigraph.arms.knowledge import Examination, by_prompt, in_sentences, paragraphs
from entigraph.arms.subsets import write_subset
from entigraph.evaluation.asking import Prompts
from entigraph.evaluation.questions import Article, line_of, read_questions
from entigraph.evaluation.retrieval import passages
from entigraph.generation.generator import Generator, extractive, generator
from entigraph.generation.methods import METHODS
from entigraph.generation.stages import Limits, generate
from entigraph.library import Text, read_library
from sbp_jax import config, files
from sbp_jax.config import Experiment, Source
from sbp_jax.config_rules import validate
from sbp_jax.data.corpus import Corpus, Document, open_corpus, read_documents, write_corpus
from sbp_jax.data.split import is_held_out
from sbp_jax.data.tokenizer import Tokenizer, load_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.synthesis.arms import consumed
from sbp_jax.tokenize import prepare_store
from sbp_jax.train import train
from sbp_jax.training.checkpoint import tokenizer_path

RAW = "raw"
FACTS = 400  # general questions
MARGIN = 1.1  # of texts that are asked for: documents have more to say, or less
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """What the user has; nothing of it in the toy world."""

    library: str = ""
    questions: str = ""
    model: str = ""  # run, checkpoint or Hugging Face folder
    engine: str = "none"
    generator: str = ""  # the model that writes, for engines that run one
    limits: Limits = Limits()


@dataclass(frozen=True)
class Data:
    folder: Path
    library: Sequence[Text]
    articles: Sequence[Article]
    facts: Sequence[Article]
    toy: niche.Niche | None

    def path(self, name: str) -> str:
        return str(self.folder / name)


@dataclass(frozen=True)
class Arm:
    method: str
    share: float

    @property
    def name(self) -> str:
        return f"{self.method}-{self.share:g}"


def prepare(experiment: Experiment, given: Given, folder: Path) -> Data:
    e = experiment
    if not given.library:
        world = niche.choose_niche(e.toyworld, e.study.niche, e.study.texts)
        library = world.library()
        articles = niche.questions(world.world, library)
        general = world.general("train", e.toyworld.documents)
        held_out = world.general("held_out", e.toyworld.held_out_documents)
        facts = niche.general_questions(world, FACTS)
    else:
        world, facts = None, []
        library = read_library(given.library, e)
        articles = read_questions(given.questions)
        every = open_corpus(e.data.input, e)
        general = _part(e, every, held_out=False)
        held_out = _part(e, every, held_out=True)
        if e.eval.input:
            general = read_documents(every, e.data.on_error)
            held_out = read_documents(open_corpus(e.eval.input, e), e.data.on_error)
    for name, documents in (
        ("general", general),
        ("held_out", held_out),
        ("library", map(_document, library)),
    ):
        if (
            not files.has_manifest(folder / name)
            and not write_corpus(documents, folder / name)["documents"]
        ):
            raise UserError(f"{e.data.input}: no document for {name}; give more of them")
    lines = "".join(line_of(article) for article in articles)
    files.write_bytes(folder / "questions.jsonl", lines.encode())
    return Data(folder, library, articles, facts, world)


def _part(e: Experiment, corpus: Corpus, *, held_out: bool) -> Iterator[Document]:
    documents = read_documents(corpus, e.data.on_error)
    return (d for d in documents if is_held_out(d.id, e) == held_out)


def _document(text: Text) -> Document:
    meta = {"title": text.title, "author": text.author, "year": text.year}
    return Document(text.id, text.text, "library", json.dumps(meta, ensure_ascii=False))


def examination(experiment: Experiment, data: Data) -> Examination:
    """A model of the toy world knows sentences and paragraphs, others are asked by a prompt."""
    general = data.path("held_out")
    if data.toy:
        shown = paragraphs(data.articles)
        return Examination(data.articles, in_sentences, shown, data.facts, general, per_byte=False)
    shown = passages(data.library, experiment.study.passage_characters)
    asked = by_prompt(Prompts(experiment.entigraph.prompts))
    return Examination(data.articles, asked, shown, (), general)


def first_model(experiment: Experiment, data: Data, given: Given, place: Path) -> str:
    """The user's, or the toy world's, which learns the general part."""
    if given.model:
        return given.model
    e, replace = experiment, dataclasses.replace
    lr = e.study.pretraining_lr
    run = replace(
        config.for_training(e),
        init_from="",
        data=replace(e.data, input=data.path("general"), mixture={}),
        eval=replace(e.eval, input=data.path("held_out")),
        optimizer=replace(e.optimizer, peak_lr=lr, final_lr=lr / 10),
        train=replace(e.train, tokens=e.study.pretraining_tokens),
    )
    validate(run)
    _train(run, place)
    return str(place)


def write_method(
    experiment: Experiment, data: Data, given: Given, method: str, tokenizer: Tokenizer, place: Path
) -> str:
    """The corpus of its texts, as many as the largest share takes."""
    if method == RAW:
        return data.path("library")
    e = experiment
    wanted = MARGIN * e.train.tokens * (1 - e.study.replay) / e.study.passes
    each = e.entigraph.tokens_per_document or max(1, round(wanted / len(data.library)))
    e = dataclasses.replace(e, entigraph=dataclasses.replace(e.entigraph, tokens_per_document=each))
    writer = _writer(e, data, given, method, tokenizer, place)
    generate(e, data.library, place, method, writer, given.limits)
    return str(place / method)


def _writer(
    e: Experiment, data: Data, given: Given, method: str, tokenizer: Tokenizer, place: Path
) -> Generator:
    if not METHODS[method].needs_engine:
        return extractive(tokenizer)
    if given.engine == "none" and data.toy:
        return rewriter.rewriter(data.toy.world, tokenizer)
    if given.engine == "none":
        raise UserError(f"config.study.methods: {method} needs a model: --engine=jax, vllm or api")
    return generator(given.engine, e, given.generator or None, place / "work")


def train_arm(
    experiment: Experiment, data: Data, model: str, arm: Arm, texts: str, place: Path
) -> dict[str, Any]:
    """The texts that it is trained on, its run, and what that has read."""
    e, replace, share = experiment, dataclasses.replace, experiment.study.replay
    tokens = max(1, round(arm.share * e.num_steps)) * e.tokens_per_step
    path = tokenizer_path(model)
    # Of the library itself no part is left out: a smaller budget reads all of it less often.
    wanted = sys.maxsize if arm.method == RAW else round(tokens * (1 - share) / e.study.passes)
    subset = write_subset(e, texts, wanted, load_tokenizer(path), place / "texts")
    stores = {
        name: str(prepare_store(spec, folder, e, path, held_out=0.0).path)
        for name, spec, folder in (
            ("synthetic", str(place / "texts"), place / "tokens"),
            ("replay", data.path("general"), data.folder / "stores" / "general"),
            ("held_out", data.path("held_out"), data.folder / "stores" / "held_out"),
        )
    }
    run = replace(
        config.for_training(e),
        init_from=model,
        data=replace(
            e.data,
            mixture={
                "synthetic": Source(stores["synthetic"], 1 - share),
                "replay": Source(stores["replay"], share),
            },
            tokenizer=path,
        ),
        eval=replace(e.eval, input=stores["held_out"]),
        train=replace(e.train, tokens=tokens, samples=0),
    )
    validate(run)
    summary = _train(run, place / "run")
    return {
        "tokens": tokens,
        "synthetic_tokens": round(tokens * (1 - share)),
        "texts": {name: subset[name] for name in ("documents", "tokens")},
        "consumed": consumed(place / "run"),
        "flops": summary["model_flops"],
        "wall_s": summary["wall_s"],
    }


def _train(run: Experiment, place: Path) -> dict[str, Any]:
    if not (summary := train(run, place)):
        raise KeyboardInterrupt  # asked to stop, the trainer has saved and returned
    return summary
