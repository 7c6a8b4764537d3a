"""What `train()` refuses, goes on with and takes over from other runs; in this process."""

import contextlib
import dataclasses
import json
import logging
import math
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from sbp_jax import parallel
from sbp_jax import train as trainer
from sbp_jax.config import (
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    Experiment,
    ModelConfig,
    OptimizerConfig,
    ToyWorldConfig,
    TrainConfig,
    to_json,
)
from sbp_jax.data.tokenizer import load_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.tokenize import prepare_store
from sbp_jax.train import train
from sbp_jax.training.checkpoint import restore_params
from sbp_jax.training.step import init_state, state_shapes, state_shardings

BATCH, TIME, VOCAB, STEPS = 8, 32, 320, 10
PLAIN = Experiment(
    model=ModelConfig(
        num_layers=1,
        d_model=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        d_ff=64,
        vocab_size=VOCAB,
    ),
    data=DataConfig(sequence_length=TIME, workers=1),
    toyworld=ToyWorldConfig(concepts=40, documents=200, held_out_documents=20),
    optimizer=OptimizerConfig(peak_lr=1e-2, schedule="constant"),
    train=TrainConfig(
        tokens=STEPS * BATCH * TIME, batch_size=BATCH, log_every=1, samples=0, tensorboard=False
    ),
    checkpoint=CheckpointConfig(every_steps=2),
    eval=EvalConfig(every_steps=0, max_sequences=13),
)
OTHER_WORLD = ToyWorldConfig(concepts=40, documents=200, held_out_documents=20, seed=1)


def changed(base=PLAIN, /, **values):
    """The experiment with `section__field=value`."""
    for name, value in values.items():
        section, _, field = name.partition("__")
        if field:
            value = dataclasses.replace(getattr(base, section), **{field: value})
        base = dataclasses.replace(base, **{section: value})
    return base


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return prepare_store("toyworld", tmp_path_factory.mktemp("store") / "tokens", PLAIN).path


@pytest.fixture(scope="module")
def other_store(tmp_path_factory):
    """Of another world, by the tokenizer that was learnt from it."""
    other = changed(toyworld=OTHER_WORLD)
    return prepare_store("toyworld", tmp_path_factory.mktemp("other") / "tokens", other).path


@pytest.fixture(scope="module")
def plain(store):
    return changed(data__input=str(store))


@contextlib.contextmanager
def sigterm_at(step):
    """As somebody would send it who sees the line of that step."""

    class Send(logging.Handler):
        def emit(self, record):
            if re.match(rf"step +{step}/", record.getMessage()):
                signal.raise_signal(signal.SIGTERM)

    log, handler = logging.getLogger("sbp_jax.training.loop"), Send()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def stop_after_some_steps(experiment, workdir, step):
    with sigterm_at(step):
        assert train(experiment, workdir) == {}
    done = metrics(workdir)[-1]["step"]
    assert step <= done < experiment.num_steps
    return done


@pytest.fixture(scope="module")
def a_finished_run(plain, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train(changed(plain, train__tokens=40 * BATCH * TIME), workdir)
    return workdir


@pytest.fixture(scope="module")
def a_stopped_run(plain, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    stop_after_some_steps(plain, workdir, 3)
    return workdir


@pytest.fixture
def stopped(a_stopped_run, tmp_path):
    return shutil.copytree(a_stopped_run, tmp_path / "run")


@pytest.fixture
def finished(a_finished_run, tmp_path):
    return shutil.copytree(a_finished_run, tmp_path / "run")


def no_constant(name):
    raise AssertionError(f"{name} is no JSON")


def strict_json(text):
    return json.loads(text, parse_constant=no_constant)


def metrics(workdir):
    return [strict_json(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def refusal(experiment, workdir, **options):
    with pytest.raises(UserError) as error:
        train(experiment, workdir, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def steps_saved(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


# Going on under another config.


def test_a_finished_run_with_a_larger_budget_goes_on(plain, finished):
    longer = changed(plain, train__tokens=44 * BATCH * TIME)
    assert "config.train.tokens: 10240 -> 11264" in refusal(longer, finished)
    before = metrics(finished)
    summary = train(longer, finished, allow_change=True)
    assert summary["steps"] == 44
    lines = metrics(finished)
    assert lines[:40] == before
    assert [line["step"] for line in lines[40:]] == [41, 42, 43, 44]


@pytest.mark.parametrize("run", ["stopped", "finished"])
def test_a_budget_below_the_steps_that_are_done_is_refused(plain, run, request):
    workdir = request.getfixturevalue(run)
    done = metrics(workdir)[-1]["step"]
    shorter = changed(plain, train__tokens=2 * BATCH * TIME)
    error = refusal(shorter, workdir, allow_change=True)
    assert f"{done} steps are done, more than the 2 of config.train.tokens" in error
    assert metrics(workdir)[-1]["step"] == done


def test_another_batch_size_is_refused_by_what_it_does_to_the_data(plain, stopped):
    larger = changed(plain, train__batch_size=2 * BATCH, train__tokens=STEPS * 2 * BATCH * TIME)
    error = refusal(larger, stopped, allow_change=True)
    assert "trained on other data, or in another order" in error and "batch_size" in error


# The weights of another run.


def test_weights_of_another_run_bring_their_tokenizer_along(plain, a_finished_run, tmp_path):
    other = changed(
        PLAIN, init_from=str(a_finished_run), toyworld=OTHER_WORLD, optimizer__warmup="1 steps"
    )
    train(other, tmp_path)
    own, earlier = (load_tokenizer(str(w / "tokenizer")) for w in (tmp_path, a_finished_run))
    assert own.fingerprint == earlier.fingerprint
    assert metrics(tmp_path)[0]["loss"] < math.log(VOCAB) - 1


def test_init_from_is_part_of_a_runs_config(plain, a_finished_run, tmp_path):
    initialized = changed(plain, init_from=str(a_finished_run))
    stop_after_some_steps(initialized, tmp_path, 1)
    assert f"config.init_from: {str(a_finished_run)!r} -> ''" in refusal(plain, tmp_path)
    assert train(initialized, tmp_path)["steps"] == STEPS


@pytest.mark.parametrize("wrong", ["nowhere", "another architecture"])
def test_wrong_weights_are_refused_before_any_data_are_prepared(wrong, a_finished_run, tmp_path):
    if wrong == "nowhere":
        experiment = changed(init_from=str(tmp_path / "nowhere"))
    else:
        experiment = changed(init_from=str(a_finished_run), model__d_ff=96)
    error = refusal(experiment, tmp_path / "run")
    assert ("no checkpoint there" if wrong == "nowhere" else "another architecture") in error
    assert not (tmp_path / "run").exists()


# Tokens of another tokenizer.


@pytest.mark.parametrize("role", ["data.input", "eval.input", "data.input under init_from"])
def test_a_store_of_another_tokenizer_is_refused(
    role, plain, store, other_store, a_finished_run, tmp_path
):
    experiment = {
        "data.input": changed(
            plain,
            data__input=str(other_store),
            data__tokenizer=str(store / "tokenizer"),
        ),
        "eval.input": changed(plain, eval__input=str(other_store)),
        "data.input under init_from": changed(
            plain, data__input=str(other_store), init_from=str(a_finished_run)
        ),
    }[role]
    error = refusal(experiment, tmp_path)
    assert f"{other_store}: its ids are not those of the tokenizer" in error
    assert not (tmp_path / "metrics.jsonl").exists()


# Evaluation.


def test_nothing_to_evaluate_on_is_refused_before_the_first_step(tmp_path):
    error = refusal(changed(data__held_out=0.0), tmp_path)
    assert "no tokens to evaluate on" in error and "data.held_out" in error
    assert not (tmp_path / "metrics.jsonl").exists()


def test_evaluation_takes_no_more_rows_at_once_than_a_part_of_a_step(plain, store, monkeypatch):
    seen, eval_step = [], trainer.eval_step

    def watched(experiment, params, batch):
        seen.append(batch["inputs"].shape[0])
        return eval_step(experiment, params, batch)

    monkeypatch.setattr(trainer, "eval_step", watched)
    mesh = parallel.make_mesh(PLAIN.mesh)
    losses = []
    for accumulate in (1, 2):
        parts = changed(plain, train__batch_size=16, train__accumulate=accumulate)
        _, _, held_out = trainer.prepare_data(parts, store.parent / "workdir")
        state = jax.jit(lambda e=parts: init_state(e), out_shardings=state_shardings(parts, mesh))()
        losses.append(trainer.held_out_loss(parts, mesh, held_out)(state))
    assert seen == [16, 8]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


# Runs that diverge.

DIVERGING = {"optimizer__peak_lr": 1e38, "optimizer__warmup": "1 steps"}


def test_a_run_that_diverges_keeps_its_last_finite_checkpoint_and_can_go_on_from_it(
    plain, tmp_path
):
    plain = changed(plain, train__tokens=20 * BATCH * TIME)
    done = stop_after_some_steps(changed(plain, checkpoint__every_steps=4), tmp_path, 5)
    diverging = changed(plain, **DIVERGING, train__max_skipped=5, checkpoint__every_steps=done + 3)
    # Steps done + 2 to done + 6 are not finite; one of them would have been saved.
    error = refusal(diverging, tmp_path, allow_change=True)
    assert "5 gradients in a row were not finite" in error
    assert steps_saved(tmp_path)[-1] == done
    assert None in [line["grad_norm"] for line in metrics(tmp_path)]

    mesh = parallel.make_mesh(plain.mesh)
    shapes, shardings = state_shapes(plain).params, state_shardings(plain, mesh).params
    params, step = restore_params(tmp_path, shapes, shardings)
    assert step == done
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(params)))

    summary = train(plain, tmp_path, allow_change=True)
    assert summary["steps"] == 20 and summary["skipped"] == 0
    assert summary["final_loss"] < metrics(tmp_path)[0]["loss"]


def test_numbers_that_are_not_finite_are_null_in_the_files(plain, tmp_path):
    # The decay overflows the weights; by itself such a rate leaves them finite.
    train(changed(plain, **DIVERGING, optimizer__weight_decay=100.0), tmp_path)
    last = metrics(tmp_path)[-1]
    assert last["loss"] is last["grad_norm"] is last["eval_loss"] is None
    summary = strict_json((tmp_path / "summary.json").read_text())
    assert summary["final_loss"] is summary["eval_loss"] is None
    assert summary["eval_losses"] == [{"step": STEPS, "loss": None}]
    assert summary["skipped"] > 0


# Files that something else has damaged.


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", "", "not JSON"),
        ("summary.json", "", "not a summary"),
        ("summary.json", "[]", "not a summary"),
        ("metrics.jsonl", '{"step": 1, "loss"\n', "not JSON"),
    ],
)
def test_a_broken_file_of_the_run_is_named(name, content, reason, plain, stopped):
    (stopped / name).write_text(content)
    assert f"{stopped / name}: {reason}" in refusal(plain, stopped)


def test_a_run_of_another_version_did_what_the_defaults_say_and_is_refused_where_this_one_does_not(
    plain, stopped
):
    recorded = json.loads(to_json(plain))
    del recorded["train"]["z_loss"], recorded["model"]["d_model"]
    recorded["train"]["zeal"] = 3
    (stopped / "config.json").write_text(json.dumps(recorded))
    error = refusal(plain, stopped)
    assert "config.train.zeal: 3 -> None" in error
    assert f"config.model.d_model: 128 -> {plain.model.d_model}" in error
    assert "z_loss" not in error
