"""Trains one model: pretraining and tuning differ in data and initial weights alone.

    python -m sbp_jax.train --config=configs/laptop.py --workdir=runs/laptop
    python -m sbp_jax.train --config=configs/laptop.py --config.data.input=texts --workdir=runs/mine

The same command resumes an interrupted run and does nothing for a finished one. On several hosts,
start it on each of them (launch/).
"""

from sbp_jax import cli

if __name__ == "__main__":
    # Before the slow imports, which would be done twice.
    cli.use_huge_pages()
    cli.end_at_interrupt()

import dataclasses
import json
import logging
import resource
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from sbp_jax import config, files, parallel
from sbp_jax.config import Experiment, Source
from sbp_jax.data.loader import Loader, held_out_batches
from sbp_jax.data.tokenizer import Tokenizer, load_tokenizer
from sbp_jax.data.tokens import TokenStore
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import Request, Sampling
from sbp_jax.inference.sampler import Sampler
from sbp_jax.model import transformer
from sbp_jax.tokenize import prepare_store
from sbp_jax.training import flops
from sbp_jax.training.checkpoint import (
    Checkpoints,
    check_architecture,
    restore_params,
    tokenizer_path,
)
from sbp_jax.training.loop import Clock, fit, hours
from sbp_jax.training.metrics import Metrics, read_lines
from sbp_jax.training.preflight import check_memory, check_split, describe
from sbp_jax.training.step import (
    TrainState,
    eval_step,
    init_state,
    state_shapes,
    state_shardings,
    trace_train_step,
)

INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "Workdir, checkpoint or Hugging Face folder whose weights this run begins with.",
)
ALLOW_CHANGE = flags.DEFINE_bool(
    "allow_config_change",
    False,
    "Go on though the config differs from what the run, or the weights of --init_from, began with.",
)
PREPARATION_MS = 7 * 24 * 3600 * 1000  # tokenizing may take as long as it takes
log = logging.getLogger(__name__)


def main() -> None:
    experiment = cli.experiment()
    if INIT_FROM.value:
        experiment = dataclasses.replace(experiment, init_from=INIT_FROM.value)
    parallel.start_processes()
    keep_compiled(files.absolute(cli.WORKDIR.value) / "compiled")
    train(experiment, cli.WORKDIR.value, allow_change=ALLOW_CHANGE.value)


def keep_compiled(folder: epath.Path) -> None:
    """A restart finds the programs of the run compiled, unless JAX was told of another place.

    In the workdir, for JAX lets the first process alone write what all of them read. (On CPUs its
    keys differ between processes: there the others compile again.)
    """
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # JAX would have XLA keep its tuning in there as well, which cannot write to object storage.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def train(
    experiment: Experiment, workdir: epath.PathLike, *, allow_change: bool = False
) -> dict[str, Any]:
    """One run from start, or from where it was interrupted, to its summary."""
    workdir = files.absolute(workdir)

    # The workdir, which may hold a part of this run, or all of it.
    refuse_other_config(workdir, experiment, allow_change)
    if summary := finished(workdir, experiment):
        log.info("%s: this run is finished; nothing to do", workdir)
        return summary

    # Devices, and whether the model fits them.
    mesh = parallel.make_mesh(experiment.mesh)
    check_split(experiment, mesh)
    check_memory(experiment, mesh)
    if experiment.init_from:
        check_architecture(experiment.init_from, experiment.model, allow_change=allow_change)

    if jax.process_index():
        return _train(experiment, workdir, mesh, primary=False)
    with files.exclusive(workdir / ".lock", f"{workdir}: another process is training there"):
        return _train(experiment, workdir, mesh, primary=True)


def _train(
    experiment: Experiment, workdir: epath.Path, mesh: jax.sharding.Mesh, *, primary: bool
) -> dict[str, Any]:
    clock = Clock()
    shardings = state_shardings(experiment, mesh)

    # Data: tokens, and the order in which the steps see them. One process prepares, all read.
    barrier = ocp.multihost.get_barrier_sync_fn()
    if not primary:
        try:
            barrier(key="data prepared", timeout_ms=PREPARATION_MS)
        except jax.errors.JaxRuntimeError as error:
            raise UserError("the first process ended while preparing data; it says why") from error
    tokenizer, sources, held_out = prepare_data(experiment, workdir)
    if primary:
        barrier(key="data prepared", timeout_ms=PREPARATION_MS)
    loader = open_loader(experiment, sources)
    evaluate = held_out_loss(experiment, mesh, held_out)

    # The state: from the newest checkpoint, from other weights, or from the seed.
    checkpoints = Checkpoints(workdir, experiment.checkpoint)
    state, meta = first_state(experiment, checkpoints, shardings)
    if meta.setdefault("data", loader.fingerprint) != loader.fingerprint:
        raise UserError(
            f"{workdir}: the checkpoints were trained on other data, or in another order: a text, "
            "the seed, batch_size, sequence_length, or the budget or weights of a mixture changed; "
            "put them back, or begin another --workdir with --init_from"
        )
    if int(state.step) > experiment.num_steps:
        raise UserError(
            f"{workdir}: {int(state.step)} steps are done, more than the {experiment.num_steps} of "
            "config.train.tokens; raise it, or use another --workdir"
        )
    clock.add(meta.get("clock", {}))
    if primary:  # only now: a run that was refused above has not taken the workdir
        files.write_bytes(workdir / "config.json", config.to_json(experiment).encode())

    # The step, compiled once.
    log.info("compiling the step")
    step = trace_train_step(experiment, mesh).lower().compile()
    peak, peak_source = flops.peak_flops(jax.local_devices()[0])
    describe(experiment, mesh, loader, step, peak, peak_source, int(state.step))
    clock.charge("start")

    # The loop.
    metrics = Metrics(workdir, experiment, int(state.step), primary)
    with loader.batches(
        parallel.batch_sharding(mesh), int(state.step), threads=experiment.data.workers
    ) as batches:
        state, done = fit(
            experiment,
            state,
            mesh=mesh,
            step=step,
            batches=batches,
            evaluate=evaluate,
            checkpoints=checkpoints,
            metrics=metrics,
            peak_flops=peak,
            clock=clock,
            meta=meta,
        )
    metrics.close()
    checkpoints.close()
    if not done:
        log.info(
            "stopped after step %d of %d; resume with the same command",
            int(state.step),
            experiment.num_steps,
        )
        return {}
    if not primary:
        return {}

    # What came of it.
    if jax.process_count() == 1 and experiment.train.samples:  # a sampler has one process
        print_samples(experiment, state, tokenizer)
    summary = summarize(experiment, workdir, clock)
    files.write_json(workdir / "summary.json", summary)
    log.info(
        "done in %s: held-out loss %s; metrics.jsonl and summary.json are in %s",
        hours(summary["wall_s"]),
        summary["eval_loss"] and round(summary["eval_loss"], 4),
        workdir,
    )
    return summary


def refuse_other_config(workdir: epath.Path, experiment: Experiment, allow_change: bool) -> None:
    """A run goes on under the config it began with, unless it is told otherwise."""
    path = workdir / "config.json"
    if not path.exists():
        return
    try:
        changed = config.differences(path.read_text(), experiment)
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); use another --workdir") from error
    if changed and not allow_change:
        raise UserError(
            f"{workdir} belongs to a run with another config ({'; '.join(changed)}); "
            "use another --workdir, or --allow_config_change to go on with the new one"
        )
    for change in changed:
        log.warning("config changed: %s", change)


def finished(workdir: epath.Path, experiment: Experiment) -> dict[str, Any] | None:
    """The summary of a run that has nothing left to do."""
    path = workdir / "summary.json"
    if not path.exists():
        return None
    try:
        summary = json.loads(path.read_text())
        return summary if summary["steps"] == experiment.num_steps else None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not a summary ({error}); delete it and run again") from error


def first_state(
    experiment: Experiment, checkpoints: Checkpoints, shardings: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """The newest sound checkpoint; else the weights of `init_from`; else the seed's."""
    found = checkpoints.restore(state_shapes(experiment), shardings)
    if found:
        log.info("resuming after step %d of %d", int(found[0].step), experiment.num_steps)
        return found
    params = None
    if experiment.init_from:
        shapes = state_shapes(experiment).params
        params, step = restore_params(experiment.init_from, shapes, shardings.params)
        log.info("weights from %s, step %d", experiment.init_from, step)
    make = jax.jit(partial(init_state, experiment), out_shardings=shardings, donate_argnums=0)
    return make(params), {}


def prepare_data(
    experiment: Experiment, workdir: epath.Path
) -> tuple[Tokenizer, dict[str, tuple[TokenStore, float, float]], tuple[TokenStore, str]]:
    """The tokenizer, the sources of training tokens, and the store and its part to evaluate on."""
    data = experiment.data
    parts = data.mixture or {"train": Source(data.input)}
    tokenizer, sources = data.tokenizer, {}
    if experiment.init_from and not tokenizer:  # the weights know no other ids
        tokenizer = tokenizer_path(experiment.init_from)
    for name, part in parts.items():
        store = prepare_store(part.input, workdir / "data" / name, experiment, tokenizer)
        tokenizer = tokenizer or str(store.path / "tokenizer")
        sources[name] = store, part.weight, part.max_passes
    if experiment.eval.input:
        folder = workdir / "data" / "held_out"
        held_out = (
            prepare_store(experiment.eval.input, folder, experiment, tokenizer, held_out=0),
            "all",
        )
    else:
        held_out = sources[next(iter(sources))][0], "held_out"
    loaded = load_tokenizer(tokenizer)
    vocab = experiment.model.vocab_size
    if not 0.9 * vocab <= loaded.vocab_size <= vocab:
        raise UserError(
            f"{tokenizer}: the tokenizer has {loaded.vocab_size} ids but "
            f"config.model.vocab_size={vocab}; set --config.model.vocab_size={loaded.vocab_size}, "
            "or use another tokenizer"
        )
    for store in [*(store for store, _, _ in sources.values()), held_out[0]]:
        if store.manifest["tokenizer"] != loaded.fingerprint:
            raise UserError(
                f"{store.path}: its ids are not those of the tokenizer {tokenizer}; make the store "
                "again with that one"
            )
    if jax.process_index() == 0:
        loaded.save(workdir / "tokenizer")
    return loaded, sources, held_out


def open_loader(
    experiment: Experiment, sources: dict[str, tuple[TokenStore, float, float]]
) -> Loader:
    return Loader(
        sources,
        seed=experiment.seed,
        sequence_length=experiment.data.sequence_length,
        batch_size=experiment.train.batch_size,
        num_steps=experiment.num_steps,
        document_mask=experiment.data.document_mask,
    )


def held_out_loss(
    experiment: Experiment, mesh: jax.sharding.Mesh, held_out: tuple[TokenStore, str]
) -> Callable[[TrainState], float]:
    """A function of the state: mean cross-entropy in nats, on the same windows each time."""
    store, part = held_out
    step = jax.jit(
        partial(eval_step, experiment), out_shardings=NamedSharding(mesh, PartitionSpec())
    )

    batches = partial(
        held_out_batches,
        store,
        part=part,
        sequence_length=experiment.data.sequence_length,
        batch_size=experiment.train.batch_size // experiment.train.accumulate,
        max_sequences=experiment.eval.max_sequences,
        sharding=parallel.batch_sharding(mesh),
        document_mask=experiment.data.document_mask,
    )
    batches()  # refuses an empty part now, not at the first evaluation

    def evaluate(state: TrainState) -> float:
        total = np.zeros(2)
        with jax.set_mesh(mesh):
            for batch in batches():
                total += np.asarray(step(state.params, batch), np.float64)
        return float(total[0] / total[1])

    return evaluate


def summarize(experiment: Experiment, workdir: epath.Path, clock: Clock) -> dict[str, Any]:
    """The run in a few numbers; the losses are those of metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    lines = read_lines(path)
    if not lines or lines[-1]["step"] != experiment.num_steps:
        raise UserError(f"{path}: its last lines are missing; was the file moved or edited?")
    evaluations = [{"step": x["step"], "loss": x["eval_loss"]} for x in lines if "eval_loss" in x]
    per_token = flops.flops_per_token(experiment.model, experiment.data.sequence_length)
    return {
        "final_loss": lines[-1]["loss"],
        "eval_loss": evaluations[-1]["loss"],
        "eval_losses": evaluations,
        "steps": experiment.num_steps,
        "tokens": experiment.train.tokens,
        "params": transformer.num_params(experiment.model),
        "model_flops": per_token * experiment.train.tokens,
        "skipped": lines[-1]["skipped"],
        "wall_s": round(clock.total, 1),
        "goodput": round(clock.spent["steps"] / clock.total, 4),
        "seconds": {name: round(seconds, 1) for name, seconds in clock.spent.items()},
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def print_samples(experiment: Experiment, state: TrainState, tokenizer: Tokenizer) -> None:
    """A few texts at temperature 0.8, each from an empty beginning."""
    begin = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    sampling = Sampling(max_tokens=256, temperature=0.8)
    sampler = Sampler(
        experiment.model,
        state.params,
        tokenizer,
        max_length=experiment.data.sequence_length + 1,  # the first token is not of the text
        batch_size=experiment.train.samples,
    )
    requests = [
        Request(str(number), (begin,), sampling, seed=experiment.seed + number)
        for number in range(1, experiment.train.samples + 1)
    ]
    for completion in sorted(sampler.generate(requests), key=lambda c: int(c.id)):
        print(f"--- sample {completion.id}\n{completion.text}", flush=True)


if __name__ == "__main__":
    cli.run(main)
