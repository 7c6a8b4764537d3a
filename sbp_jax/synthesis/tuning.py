"""A pretrained checkpoint becomes a synthesizer p(d2 | d1): the trainer on pairs, loss on d2 alone.

What a synthesizer is asked is what it was tuned on, token by token. The checkpoint is chosen by the
loss on d2's that no training has seen, validation documents, after the d1's they were paired with.
Beside it stands the loss on them after other d1's: a synthesizer to which d1 says nothing has the
same there.
"""

import dataclasses
import logging
import re
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from sbp_jax import config, files, parallel
from sbp_jax.config import Experiment
from sbp_jax.config_rules import validate
from sbp_jax.data.tokenizer import load_tokenizer
from sbp_jax.data.tokens import TokenStore, refuse_other_inputs
from sbp_jax.errors import UserError
from sbp_jax.model import transformer
from sbp_jax.synthesis.examples import STORES, read_count, read_pairs_manifest, write_stores
from sbp_jax.train import PREPARATION_MS, finished, held_out_loss, train
from sbp_jax.training.checkpoint import (
    check_architecture,
    fingerprint,
    restore_params,
    tokenizer_path,
)
from sbp_jax.training.metrics import read_lines
from sbp_jax.training.step import TrainState

# Of the trainer, which the user knows from the section tuning.
OWN_FIELDS = (
    r"config\.(?:train|optimizer|model)\."
    r"(tokens|batch_size|peak_lr|final_lr|warmup|weight_decay|dropout)"
)
log = logging.getLogger(__name__)


def tune(
    experiment: Experiment,
    pairs: epath.PathLike,
    checkpoint: str,
    workdir: epath.PathLike,
    *,
    allow_change: bool = False,
) -> dict[str, Any]:
    """Tunes and chooses; `workdir`/synthesizer.json, which this returns, names the checkpoint.

    Asked to stop, the trainer saves, and KeyboardInterrupt says so to whoever called.
    """
    workdir = files.absolute(workdir)
    tokenizer = tokenizer_path(checkpoint)
    stores = {name: str(workdir / "pairs" / name) for name in STORES}
    tuned = tuning_run(experiment, stores, checkpoint, tokenizer)
    read_pairs_manifest(pairs)
    check_architecture(checkpoint, tuned.model, allow_change=allow_change)
    _refuse_other_tokenizer(experiment, tokenizer)
    _prepare(experiment, pairs, checkpoint, tokenizer, workdir)
    train(tuned, workdir, allow_change=allow_change)
    _together("pairs learnt")  # or another process would look before the first one has written
    if not finished(workdir, tuned):
        raise KeyboardInterrupt
    record, of_run = workdir / "synthesizer.json", files.sha256(config.to_json(tuned).encode())
    if record.exists() and (found := files.read_record(record)).get("run") == of_run:
        return found
    found = {**choose(tuned, workdir, stores["shuffled"]), "run": of_run}
    found["examples"] = {name: read_count(store) for name, store in stores.items()}
    if found["shuffled_pair_loss"] <= found["pair_loss"]:
        log.warning("the synthesizer ignores d1: other d1's do as well")
    log.info("synthesizer: %s", found["checkpoint"])
    if jax.process_index() == 0:
        files.write_json(record, found)
    return found


def tuning_run(
    experiment: Experiment, stores: dict[str, str], checkpoint: str, tokenizer: str
) -> Experiment:
    """The experiment of the tuning, for `train`; refused if it cannot be."""
    t, prompt = experiment.tuning, experiment.synthesis.prompt
    if "{text}" not in prompt:
        raise UserError(
            f"config.synthesis.prompt={prompt!r} has no {{text}} in it, for which d1 is put; name "
            "the prompt itself: here, no file is read"
        )
    replace = dataclasses.replace
    tuned = replace(
        config.for_training(experiment),
        init_from="" if t.from_scratch else checkpoint,
        model=replace(experiment.model, dropout=t.dropout),
        data=replace(experiment.data, input=stores["train"], mixture={}, tokenizer=tokenizer),
        optimizer=replace(
            experiment.optimizer,
            peak_lr=t.peak_lr,
            final_lr=t.final_lr,
            warmup=t.warmup,
            weight_decay=t.weight_decay,
        ),
        train=replace(
            experiment.train,
            tokens=t.tokens,
            batch_size=t.batch_size,
            samples=0,  # it would be asked for a text without d1
            profile_steps="",
        ),
        eval=replace(experiment.eval, input=stores["held_out"], every_steps=t.every_steps),
        checkpoint=config.CheckpointConfig(t.every_steps, keep=1, keep_every_steps=t.every_steps),
    )
    try:
        validate(tuned)
    except UserError as error:
        raise UserError(re.sub(OWN_FIELDS, r"config.tuning.\1", str(error))) from error
    return tuned


def choose(tuned: Experiment, workdir: epath.Path, shuffled: str) -> dict[str, Any]:
    """The kept checkpoint with the lowest loss on held-out pairs, the first of those that tie; and
    the losses of all, with other d1's too.
    """
    found = read_lines(workdir / "metrics.jsonl")
    held_out = {x["step"]: x["eval_loss"] for x in found if x.get("eval_loss") is not None}
    folders = {step: workdir / "checkpoints" / str(step) for step in sorted(held_out)}
    # No checkpoint is saved while gradients are not finite.
    folders = {step: folder for step, folder in folders.items() if folder.exists()}
    if not folders:
        raise UserError(
            f"{workdir}: no checkpoint with a finite loss on held-out pairs; lower "
            "config.tuning.peak_lr"
        )
    evaluate = _evaluation(tuned, shuffled)
    losses = []
    for step, folder in folders.items():
        loss, other = held_out[step], evaluate(folder)
        losses.append({"step": step, "loss": loss, "shuffled_loss": other})
        log.info(
            "step %d: held-out pairs %.4f, with other d1's %.4f, gap %.4f",
            step,
            loss,
            other,
            other - loss,
        )
    best = min(losses, key=lambda each: (each["loss"], each["step"]))
    return {
        "checkpoint": str(folders[best["step"]]),
        "step": best["step"],
        "pair_loss": best["loss"],
        "shuffled_pair_loss": best["shuffled_loss"],
        "losses": losses,
    }


def _refuse_other_tokenizer(experiment: Experiment, tokenizer: str) -> None:
    named = experiment.data.tokenizer
    if named and load_tokenizer(named).fingerprint != load_tokenizer(tokenizer).fingerprint:
        raise UserError(
            f"config.data.tokenizer={named} is not the tokenizer of the checkpoint, {tokenizer}; "
            "leave it out, or name another checkpoint"
        )


def _prepare(
    experiment: Experiment,
    pairs: epath.PathLike,
    checkpoint: str,
    tokenizer: str,
    workdir: epath.Path,
) -> None:
    """The stores; and which weights this folder is about. One process does it, the others wait."""
    if jax.process_index() == 0:
        write_stores(experiment, pairs, load_tokenizer(tokenizer), workdir / "pairs")
        weights, path = {"checkpoint": fingerprint(checkpoint)}, workdir / "tuned_from.json"
        if path.exists():
            refuse_other_inputs(workdir, files.read_record(path), weights)
        else:
            files.write_json(path, weights)
    _together("pairs packed")


def _together(what: str) -> None:
    """Waits for all processes."""
    ocp.multihost.get_barrier_sync_fn()(key=what, timeout_ms=PREPARATION_MS)


def _evaluation(tuned: Experiment, store: str) -> Callable[[epath.Path], float]:
    """The loss of a checkpoint on the pairs of a store."""
    mesh = parallel.make_mesh(tuned.mesh)
    shapes = transformer.param_shapes(tuned.model)
    layout = parallel.shardings(mesh, transformer.param_metadata(tuned.model, "axes"))
    evaluate = held_out_loss(tuned, mesh, (TokenStore(epath.Path(store)), "all"))

    def loss(checkpoint: epath.Path) -> float:
        params, _ = restore_params(checkpoint, shapes, layout)
        return evaluate(TrainState(0, 0, 0, params, None))

    return loss
