"""The arms that are compared: what each one trains on, and its training with the loss it ends at.

All have the same model, tokens and schedule. What a tuned arm may choose, dropout and weight decay,
is chosen by the validation loss, from one grid for all; the held-out documents judge and choose
nothing.
"""

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

from sbp_jax import config, files
from sbp_jax.config import Experiment, Source
from sbp_jax.config_rules import validate
from sbp_jax.data.corpus import Corpus, open_corpus, read_documents
from sbp_jax.data.tokens import TokenStore
from sbp_jax.errors import UserError
from sbp_jax.evaluation.closed_book import toy_world_facts
from sbp_jax.evaluation.perplexity import perplexity
from sbp_jax.evaluation.scores import TaskScores, read_task
from sbp_jax.inference.sampler import Sampler
from sbp_jax.train import open_loader, prepare_data, train
from sbp_jax.training.flops import flops_per_token

log = logging.getLogger(__name__)
CHECKED = 100_000  # examples of a mixture that are read again
FACTS = 400  # questions about the toy world


@dataclasses.dataclass(frozen=True)
class Arm:
    synthetic: str = ""  # whose documents: "" has none
    oracle: bool = False  # unique real tokens in place of repeated ones
    tuned: bool = False  # with the best of the grid
    longer: bool = False  # with the FLOPs of all that SBP does


# In this order: each stands on what those before it have made.
ARMS = {
    "baseline": Arm(),
    "tuned_baseline": Arm(tuned=True),
    "oracle": Arm(oracle=True),
    "tuned_oracle": Arm(oracle=True, tuned=True),
    "sbp": Arm("sbp"),
    "tuned_sbp": Arm("sbp", tuned=True),
    "random_pairs": Arm("random_pairs"),  # tuned on pairs of any two documents
    "unconditional": Arm("unconditional"),  # samples of the baseline, without d1
    "longer_baseline": Arm(longer=True),
}


class Data(NamedTuple):
    folder: Path
    everything: Corpus  # what is paired, that which validates included
    corpus: Corpus  # what is trained on and synthesized from
    train: TokenStore
    validation: TokenStore
    oracle: TokenStore | None
    tokenizer: str


class Outcome(NamedTuple):
    run: Path
    flops: float  # of this training; of a tuned arm, of all its grid, and so
    wall_s: float
    summary: dict[str, Any]
    settings: dict[str, float]


def train_arm(
    experiment: Experiment,
    arm: Arm,
    data: Data,
    synthetic: TokenStore | None,
    place: Path,
    settings: dict[str, float] | None = None,
    flops: float = 0.0,
) -> Outcome:
    """A tuned arm trains for every entry of the grid. `settings` are those that another has chosen,
    `flops` those that a longer training is to have.
    """
    run = arm_experiment(experiment, arm, data, synthetic)
    if settings:  # another grid, or none, may choose others
        run, place = replaced(run, settings), place / _named(settings)
    if arm.longer:
        per_step = flops_per_token(run.model, run.data.sequence_length) * run.tokens_per_step
        steps = math.ceil(flops / per_step)
        run = replaced(run, {"train.tokens": steps * run.tokens_per_step})
    if not arm.tuned:
        summary = _trained(run, place)
        return Outcome(place, summary["model_flops"], summary["wall_s"], summary, settings or {})
    tried = []
    for settings in grid(experiment):
        folder = place / _named(settings)
        summary = _trained(replaced(run, settings), folder)
        flops, wall = summary["model_flops"], summary["wall_s"]
        tried.append(Outcome(folder, flops, wall, summary, settings))
    best = min(tried, key=_validation_loss)
    log.info("the best of %d by validation loss: %s", len(tried), best.settings)
    flops, wall = (sum(column) for column in zip(*(o[1:3] for o in tried), strict=True))
    return best._replace(flops=flops, wall_s=wall)


def _named(settings: dict[str, float]) -> str:
    return "-".join(f"{name.split('.')[1]}_{x}" for name, x in settings.items())


def _validation_loss(outcome: Outcome) -> float:
    loss = outcome.summary["eval_loss"]
    return math.inf if loss is None else loss  # None is how a loss is recorded that is not finite


def _trained(run: Experiment, place: Path) -> dict[str, Any]:
    if not (summary := train(run, place)):
        raise KeyboardInterrupt  # asked to stop, the trainer has saved and returned
    return summary


def grid(experiment: Experiment) -> list[dict[str, float]]:
    dropouts, decays = (
        _numbers(getattr(experiment.arms, field), field) for field in ("dropouts", "weight_decays")
    )
    return [
        {"model.dropout": dropout, "optimizer.weight_decay": decay}
        for dropout in dropouts
        for decay in decays
    ]


def _numbers(text: str, field: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"config.arms.{field} is {text!r}; write it as '0.0,0.1'") from error


def replaced(experiment: Experiment, fields: dict[str, Any]) -> Experiment:
    for name, value in fields.items():
        section, field = name.split(".")
        changed = dataclasses.replace(getattr(experiment, section), **{field: value})
        experiment = dataclasses.replace(experiment, **{section: changed})
    validate(experiment)
    return experiment


def arm_experiment(
    experiment: Experiment, arm: Arm, data: Data, synthetic: TokenStore | None
) -> Experiment:
    """The pretraining of an arm."""
    e, replace = experiment, dataclasses.replace
    real = data.oracle if arm.oracle else data.train
    assert real
    mixture = {}
    if synthetic:
        share = e.arms.synthetic_share
        mixture = {
            "real": Source(str(real.path), 1 - share),
            "synthetic": Source(str(synthetic.path), share, max_passes=1.0),
        }
    return replace(
        config.for_training(e),
        data=replace(e.data, input=str(real.path), mixture=mixture, tokenizer=data.tokenizer),
        eval=replace(e.eval, input=str(data.validation.path)),
    )


def consumed(run: Path) -> dict[str, dict[str, float]]:
    """What a finished run was trained on, counted in the examples that its loader yields and not
    in its config: shares of the tokens, and passes over what is there.
    """
    record = run / "consumed.json"
    if not record.exists():
        experiment = config.from_json((run / "config.json").read_text())
        sources = prepare_data(experiment, files.absolute(run))[1]
        loader = open_loader(experiment, sources)
        count = min(loader.num_examples, CHECKED)
        found = loader.consumed(range(count))
        tokens = sum(source["tokens"] for source in found.values())
        files.write_json(
            record,
            {
                name: {
                    "tokens": source["tokens"],
                    "share": source["tokens"] / tokens,
                    "passes": source["examples"] / max(source["windows"], 1),
                    "of_the_run": count / loader.num_examples,
                }
                for name, source in found.items()
            },
        )
    return files.read_record(record)


def held_out_scores(experiment: Experiment, run: Path) -> TaskScores:
    """The loss on each held-out document, which no choice was made by; and in the toy world, how
    many of its facts the model knows.
    """
    record = run / "held_out.json"
    if not (record.exists() and (run / "samples").exists()):
        held_out = open_corpus(experiment.eval.input, experiment)
        sampler = Sampler.from_checkpoint(str(run), experiment.engine)
        documents = read_documents(held_out, experiment.data.on_error)
        scores = perplexity(sampler, documents)
        if not math.isfinite(scores.metrics["loss"].value):
            raise UserError(
                f"{run}: its loss on held-out documents is not finite: the training diverged; "
                "lower config.optimizer.peak_lr, in another --workdir"
            )
        entry = scores.write(run, "held_out")
        if experiment.data.input.startswith("toyworld"):
            facts = toy_world_facts(sampler, experiment.toyworld, FACTS)
            entry |= {"facts": facts.recorded()}
        files.write_json(record, entry)
    return read_task(run, "held_out", files.read_record(record, "samples"))
