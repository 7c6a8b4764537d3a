"""The loop of Synthetic Bootstrapped Pretraining, and the arms that it is compared with.

    python -m sbp_jax.bootstrap --config=configs/laptop.py --workdir=runs/bootstrap
    python -m sbp_jax.bootstrap --config=configs/laptop.py --workdir=runs/bootstrap \\
        --sweep='arms.synthetic_share=0.3,0.5,0.7 pairing.min_score=0.2,0.4'

Pretrain; pair documents; tune the checkpoint into a synthesizer p(d2 | d1); synthesize; pretrain
again on both, with the same tokens in every arm. config.arms.run names the arms, config.seeds says
how often, config.rounds how often a model writes for the next. Each stage lies in a folder of the
workdir and is skipped where it is finished, so the same command goes on after any interruption.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.use_huge_pages()
    cli.end_at_interrupt()  # before the slow imports

import dataclasses
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from sbp_jax import config, files, parallel
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import (
    Corpus,
    Document,
    open_corpus,
    read_documents,
    refuse_inside,
    refuse_over,
    write_corpus,
)
from sbp_jax.data.ngrams import normal_form
from sbp_jax.data.split import is_held_out, is_validation
from sbp_jax.data.tokens import TokenStore, refuse_other_inputs
from sbp_jax.errors import UserError
from sbp_jax.inference.bulk.output import local_folder
from sbp_jax.inference.vllm import prepare_environment
from sbp_jax.synthesis import outcomes
from sbp_jax.synthesis.arms import ARMS, Arm, Data, grid, replaced, train_arm
from sbp_jax.synthesis.stages import Stage, synthetic_store
from sbp_jax.synthesis.tuning import tuning_run
from sbp_jax.tokenize import prepare_store
from sbp_jax.train import keep_compiled

ENGINE = flags.DEFINE_enum("engine", "jax", ["jax", "vllm"], "What writes the documents.")
SWEEP = flags.DEFINE_string(
    "sweep", "", "Fields and values that the arm sbp is run with as well, in all combinations."
)
GROWS = ("config.arms.run", "config.seeds", "config.rounds")  # what a workdir may have more of
SWEPT = ("pairing", "tuning", "synthesis")
log = logging.getLogger(__name__)


def main() -> None:
    parallel.start_processes()
    experiment, workdir = cli.experiment(), local_folder(cli.WORKDIR.value or "")
    keep_compiled(files.absolute(workdir) / "compiled")  # most arms run one program
    bootstrap(experiment, workdir, ENGINE.value, SWEEP.value)


def bootstrap(
    experiment: Experiment, workdir: Path, engine: str = "jax", sweep: str = ""
) -> dict[str, Any]:
    """Everything, to the report; returns what is in its results.json."""
    if "vllm" in (engine, experiment.pairing.engine):
        prepare_environment()  # refused now, not after the baseline, where vLLM is not installed
    chosen_arms(experiment)
    given, experiment = experiment, with_inputs(experiment, workdir / "data")
    arms, variants = chosen_arms(experiment), sweep_settings(experiment, sweep)
    refuse_other_config(given, workdir)
    refuse_inside(given.data.input, workdir)
    with files.exclusive(workdir / ".lock", f"{workdir}: another process is at work there"):
        data = prepare(experiment, workdir / "data")
        files.write_bytes(workdir / "config.json", config.to_json(given).encode())
        seeds = []
        for number in range(experiment.seeds):
            seeded = dataclasses.replace(experiment, seed=experiment.seed + number, seeds=1)
            count = len(arms) + experiment.rounds - 1 + len(variants)
            seed = Seed(seeded, workdir, workdir / f"seed{number}", data, engine, count)
            for arm in arms:
                seed.run(arm)
            for round_ in range(2, experiment.rounds + 1):
                seed.another_round(round_)
            for settings in variants:
                seed.variant(settings)
            seeds.append(seed.entries)
        named = [(sweep_name(settings), settings) for settings in variants]
        return outcomes.write(experiment, workdir, data, seeds, named)


class Seed:
    """The arms of one seed, each in a folder of its name."""

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        folder: Path,
        data: Data,
        engine: str,
        count: int,  # of the arms to come
    ):
        self.experiment, self.data, self.engine, self.count = experiment, data, engine, count
        self.workdir, self.folder = workdir, folder
        self.entries: dict[str, dict[str, Any]] = {}

    def run(self, name: str) -> None:
        arm, settings, flops = ARMS[name], None, 0.0
        if arm.longer:  # regularised as the tuned baseline, if there is one
            settings = self.entries.get("tuned_baseline", {}).get("settings")
            flops = self.entries["sbp"]["total_flops"]
        documents, checkpoint = f"{arm.synthetic}_documents", self.experiment.arms.synthesizer
        self._run(name, arm, self.experiment, documents, checkpoint, settings, flops)

    def another_round(self, number: int) -> None:
        """The synthesizer begins with the model that the last one's documents made."""
        before = "sbp" if number == 2 else f"sbp_round{number - 1}"
        name = f"sbp_round{number}"
        self._run(name, ARMS["sbp"], self.experiment, f"{name}_documents", before)

    def variant(self, settings: dict[str, Any]) -> None:
        """SBP with other settings; it shares what these do not change."""
        base, e = self.experiment, replaced(self.experiment, settings)
        name, own = sweep_name(settings), f"{sweep_name(settings)}_documents"
        now, before = ((x.pairing, x.tuning, x.synthesis.prompt) for x in (e, base))
        alike = now == before
        less = e.arms.synthetic_share <= base.arms.synthetic_share
        enough = alike and less and e.synthesis == base.synthesis
        self._run(
            name,
            ARMS["sbp"],
            e,
            "sbp_documents" if enough else own,
            base.arms.synthesizer,
            synthesizer="sbp_documents" if alike else own,
        )

    def _run(
        self,
        name: str,
        arm: Arm,
        experiment: Experiment,
        documents: str,
        checkpoint: str,
        settings: dict[str, float] | None = None,
        flops: float = 0.0,
        synthesizer: str = "",
    ) -> None:
        number = len(self.entries) + 1
        log.info("== seed %d, arm %d of %d: %s", experiment.seed, number, self.count, name)
        store, stages = None, list[Stage]()
        if arm.synthetic:
            store, stages = synthetic_store(
                experiment,
                arm.synthetic,
                self.data,
                Path(self.workdir / self.entries[checkpoint]["run"]),
                self.folder / documents,
                self.engine,
                self.folder / (synthesizer or documents),
            )
        place = self.folder / name
        outcome = train_arm(experiment, arm, self.data, store, place, settings, flops)
        self.entries[name] = outcomes.entry(experiment, self.workdir, outcome, stages)


# What is asked for.


def chosen_arms(experiment: Experiment) -> list[str]:
    arms = [arm.strip() for arm in experiment.arms.run.split(",") if arm.strip()]
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise UserError(f"config.arms.run: {unknown[0]!r} is no arm; there are: {', '.join(ARMS)}")
    if "baseline" not in arms:
        raise UserError("config.arms.run has no baseline, with which all others are compared")
    for needy, needed in (("longer_baseline", "sbp"), ("tuned_sbp", "sbp")):
        if needy in arms and needed not in arms:
            raise UserError(f"config.arms.run: {needy} needs the arm {needed}, which is not there")
    if experiment.rounds > 1 and "sbp" not in arms:
        raise UserError("config.rounds: another round needs the arm sbp in config.arms.run")
    for settings in grid(experiment):
        replaced(experiment, settings)  # refuses what cannot be
    if any(ARMS[arm].synthetic for arm in arms):
        synthesizer = experiment.arms.synthesizer
        if synthesizer not in ("baseline", "tuned_baseline"):
            raise UserError(
                f"config.arms.synthesizer is {synthesizer!r}; it has to be baseline or "
                "tuned_baseline"
            )
        if synthesizer not in arms:
            raise UserError(
                f"config.arms.run has no {synthesizer}, whose checkpoint becomes the synthesizer; "
                "name it there, or set --config.arms.synthesizer=baseline"
            )
        tuning_run(experiment, dict.fromkeys(("train", "held_out"), "pairs"), "", "")
    return [arm for arm in ARMS if arm in arms]


def sweep_settings(experiment: Experiment, sweep: str) -> list[dict[str, Any]]:
    """All combinations of 'section.field=value,value section.field=value'."""
    fields: dict[str, list[Any]] = {}
    for part in sweep.split():
        name, _, values = part.partition("=")
        section, _, field = name.removeprefix("config.").partition(".")
        now = getattr(getattr(experiment, section, None), field, None)
        kind: Any = type(now)
        swept = section in SWEPT or (section, field) == ("arms", "synthetic_share")
        if kind not in (str, int, float) or not swept or not values:
            raise UserError(
                f"--sweep: {part!r} is not SECTION.FIELD=VALUE,... with a number or a word of "
                f"the sections {', '.join(SWEPT)}, or arms.synthetic_share"
            )
        try:
            given = [kind(value) for value in values.split(",")]
            fields[f"{section}.{field}"] = list(dict.fromkeys(given))
        except ValueError as error:
            raise UserError(f"--sweep: {part!r}: {field} is a {kind.__name__}") from error
    if fields and "sbp" not in chosen_arms(experiment):
        raise UserError("--sweep varies the arm sbp, which is not in config.arms.run")
    variants = [
        dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())
    ]
    for settings in variants:
        chosen_arms(replaced(experiment, settings))  # refuses what cannot be
    return variants if fields else []


def sweep_name(settings: dict[str, Any]) -> str:
    """With the sections, two of which may have a field of one name."""
    return "sbp-" + "-".join(f"{name}_{value}" for name, value in settings.items())


def refuse_other_config(experiment: Experiment, workdir: Path) -> None:
    """A workdir is of one experiment; arms, seeds and rounds may be added to it."""
    path = workdir / "config.json"
    if path.exists():
        try:
            changed = config.differences(path.read_text(), experiment)
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error}); use another --workdir") from error
        if changed := [line for line in changed if not line.startswith(GROWS)]:
            raise UserError(
                f"{workdir} belongs to another config ({'; '.join(changed)}); use another --workdir"
            )


def with_inputs(experiment: Experiment, folder: Path) -> Experiment:
    """With the documents that judge, and those of the oracle, where the config names none: the toy
    world has both; of another corpus a part judges, and there is no oracle.
    """
    e, toy = experiment, experiment.data.input == "toyworld"
    arms, judges = e.arms, e.eval.input
    if not judges:
        judges = "toyworld:held_out" if toy else str(folder / "held_out")
    if not arms.oracle_input and toy:
        arms = dataclasses.replace(arms, oracle_input="toyworld:fresh")
    elif not arms.oracle_input:
        log.warning(
            "config.arms.oracle_input is empty: no more documents of the kind, so no oracle and no "
            "share of its gain"
        )
        run = ",".join(name for name in chosen_arms(e) if not ARMS[name].oracle)
        arms = dataclasses.replace(arms, run=run)
    return dataclasses.replace(e, arms=arms, eval=dataclasses.replace(e.eval, input=judges))


def prepare(experiment: Experiment, folder: Path) -> Data:
    """The corpus without what judges and what validates, and the token stores that arms share."""
    e, everything = experiment, open_corpus(experiment.data.input, experiment)
    refuse_over(e.data.input, everything, folder)

    def part(name: str, corpus: Corpus, belongs: Callable[[Document], bool]) -> Corpus:
        place = folder / name
        inputs = {"corpus_fingerprint": corpus.fingerprint, "held_out": e.data.held_out}
        if files.has_manifest(place):
            refuse_other_inputs(folder, files.read_manifest(place), inputs)
        else:
            documents = read_documents(corpus, e.data.on_error)
            write_corpus(filter(belongs, documents), place, extras=inputs)
        if not files.read_manifest(place)["documents"]:
            raise UserError(
                f"{corpus.name}: none of its documents is for {name}; it needs more, each with an "
                f"id of its own, or another config.data.held_out than {e.data.held_out}"
            )
        return open_corpus(str(place), e)

    own = e.eval.input == str(folder / "held_out")
    if own:
        part("held_out", everything, lambda d: is_held_out(d.id, e))
        everything = part("others", everything, lambda d: not is_held_out(d.id, e))
    corpus = part("train", everything, lambda d: not is_validation(d.id, e))
    part("validation", everything, lambda d: is_validation(d.id, e))

    stores: dict[str, TokenStore] = {}
    tokenizer = e.data.tokenizer
    specs = {name: str(folder / name) for name in ("train", "validation")}
    if any(ARMS[arm].oracle for arm in chosen_arms(e)):
        specs["oracle"] = e.arms.oracle_input
        if own:  # which may well hold the whole corpus, under other ids
            judges = {
                normal_form(document.text)
                for name in ("held_out", "validation")
                for document in read_documents(open_corpus(str(folder / name), e), "stop")
            }
            more = open_corpus(e.arms.oracle_input, e)
            part("oracle", more, lambda d: normal_form(d.text) not in judges)
            specs["oracle"] = str(folder / "oracle")
    for name, spec in specs.items():
        stores[name] = prepare_store(spec, folder / "stores" / name, e, tokenizer, held_out=0.0)
        tokenizer = tokenizer or str(folder / "stores" / name / "tokenizer")
    train, validation, oracle = (stores.get(name) for name in ("train", "validation", "oracle"))
    assert train and validation
    return Data(folder, everything, corpus, train, validation, oracle, tokenizer)


if __name__ == "__main__":
    cli.run(main)
