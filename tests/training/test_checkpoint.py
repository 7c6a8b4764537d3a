"""Checkpoints come back bit for bit on any mesh, or not at all: damage is reported, and the one
before is used.
"""

import dataclasses
import functools
import gc
import logging
import shutil
import weakref

import jax
import numpy as np
import pytest

from sbp_jax import parallel
from sbp_jax.config import CheckpointConfig, Experiment, MeshConfig, ModelConfig
from sbp_jax.errors import UserError
from sbp_jax.model import transformer
from sbp_jax.training.checkpoint import Checkpoints, restore_params, run_folder, save_params
from sbp_jax.training.checksum import checksums
from sbp_jax.training.step import init_state, state_shapes, state_shardings

MODEL = ModelConfig(
    num_layers=2, d_model=32, num_heads=8, num_kv_heads=8, head_dim=8, d_ff=64, vocab_size=64
)
EXPERIMENT = Experiment(model=MODEL)
META = {"data": "fingerprint"}


def layout(devices=1, **sizes):
    mesh = parallel.make_mesh(MeshConfig(**sizes), jax.devices()[:devices])
    return state_shardings(EXPERIMENT, mesh)


@pytest.fixture(scope="module")
def first():
    return jax.device_get(jax.jit(functools.partial(init_state, EXPERIMENT))())


@pytest.fixture
def state(first):
    """The state after a step; each step has other weights and moments."""

    def at(step, shardings=None):
        changed = jax.tree.map(lambda x: x + np.asarray(step, x.dtype), first)
        return jax.device_put(changed._replace(step=np.int32(step)), shardings or layout())

    return at


def save(workdir, *states, config=CheckpointConfig()):  # noqa: B008 (frozen)
    checkpoints = Checkpoints(workdir, config)
    for each in states:
        checkpoints.save(each, META)
    checkpoints.wait()
    checkpoints.close()


def restore(workdir, shardings=None):
    checkpoints = Checkpoints(workdir, CheckpointConfig())
    try:
        return checkpoints.restore(state_shapes(EXPERIMENT), shardings or layout())
    finally:
        checkpoints.close()


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def steps_in(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


@pytest.fixture
def two(tmp_path_factory, tmp_path, state):
    """A copy of a workdir with the checkpoints of steps 10 and 20."""
    original = tmp_path_factory.getbasetemp() / "two_checkpoints"
    if not original.exists():
        save(original, state(10), state(20))
    return shutil.copytree(original, tmp_path / "run")


def test_there_is_nothing_to_restore_in_a_new_workdir(tmp_path):
    assert restore(tmp_path) is None


def test_a_state_comes_back_bit_for_bit_on_any_mesh(tmp_path, state):
    saved = state(7, layout(devices=8, fsdp=8))
    save(tmp_path, saved)
    for target in (
        layout(devices=8, fsdp=8),
        layout(devices=8, fsdp=1, tensor=8),
        layout(devices=4, replica=2, fsdp=2),
        layout(),
    ):
        restored, meta = restore(tmp_path, target)
        assert_identical(restored, saved)
        assert meta["data"] == "fingerprint" and meta["step"] == 7
        jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or 1 / 0, restored, target)


def test_a_checksum_does_not_depend_on_the_mesh_and_notices_a_bit_and_a_swap(state):
    params = jax.device_get(state(1)).params
    whole = checksums(params)
    assert whole == checksums(jax.device_put(params, layout(devices=8, tensor=4).params))
    flipped = jax.tree.map(np.copy, params)
    flipped["embed"].view(np.uint32)[3, 5] ^= 1
    swapped = jax.tree.map(np.copy, params)
    swapped["embed"][0, :2] = swapped["embed"][0, 1::-1]
    for changed in (flipped, swapped):
        assert {k for k, v in checksums(changed).items() if v != whole[k]} == {"['embed']"}


def test_the_newest_ones_and_every_mth_are_kept(tmp_path, state):
    config = CheckpointConfig(keep=2, keep_every_steps=4)
    save(tmp_path, *(state(n) for n in range(1, 8)), config=config)
    assert steps_in(tmp_path) == [4, 6, 7]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def remove(path):
    path.unlink()


every_damage = pytest.mark.parametrize("damage", [truncate, flip, remove])


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@every_damage
def test_a_newest_checkpoint_with_damaged_arrays_is_named_and_the_one_before_is_used(
    two, state, damage, caplog
):
    damage(largest_file(two / "checkpoints" / "20" / "params"))
    with caplog.at_level(logging.WARNING, logger="sbp_jax"):
        restored, meta = restore(two)
    assert f"checkpoint {two}/checkpoints/20 is damaged" in caplog.text
    assert meta["step"] == 10
    assert_identical(restored, state(10))


@every_damage
def test_no_damage_to_any_file_goes_unnoticed(two, state, tmp_path, damage, caplog):
    """What is damaged was either not needed, or the checkpoint before is used and it is said."""
    names = [p.relative_to(two) for p in (two / "checkpoints/20").rglob("*") if p.is_file()]
    for number, name in enumerate(names):
        copy = shutil.copytree(two, tmp_path / str(number))
        damage(copy / name)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="sbp_jax"):
            restored, _ = restore(copy)
        step = int(restored.step)
        assert (step, f"{copy}/checkpoints/20 is damaged" in caplog.text) in (
            (20, False),
            (10, True),
        ), name
        assert_identical(restored, state(step))


def test_a_run_that_passed_over_a_damaged_checkpoint_writes_it_anew(two, state):
    truncate(largest_file(two / "checkpoints" / "20" / "params"))
    checkpoints = Checkpoints(two, CheckpointConfig())
    restored, _ = checkpoints.restore(state_shapes(EXPERIMENT), layout())
    assert int(restored.step) == 10
    checkpoints.save(state(20), META)
    checkpoints.wait()
    checkpoints.close()
    assert_identical(restore(two)[0], state(20))


def test_when_every_checkpoint_is_damaged_the_run_is_refused(two):
    for step in ("10", "20"):
        truncate(largest_file(two / "checkpoints" / step / "params"))
    with pytest.raises(
        UserError, match=r"none of the checkpoints \[20, 10\] can be read; put a copy back"
    ):
        restore(two)


def test_folders_that_a_killed_run_left_half_written_are_ignored(two, state):
    half = two / "checkpoints" / "30.orbax-checkpoint-tmp"
    shutil.copytree(two / "checkpoints" / "20" / "params", half / "params")
    assert_identical(restore(two)[0], state(20))
    params, step = restore_params(two, transformer.param_shapes(MODEL), layout().params)
    assert step == 20
    save(two, state(30))
    assert steps_in(two) == [20, 30]


@pytest.mark.parametrize(
    ("change", "array"),
    [
        ({"d_ff": 96}, "layers/w_down"),
        ({"num_layers": 3}, "layers/attention_norm"),
        ({"tie_embeddings": False}, "head"),
        ({"qk_norm": False}, "layers/k_norm"),
    ],
    ids=str,
)
def test_another_architecture_is_refused_by_the_name_of_an_array(two, change, array):
    other = dataclasses.replace(EXPERIMENT, model=dataclasses.replace(MODEL, **change))
    mesh = parallel.make_mesh(MeshConfig(), jax.devices()[:1])
    shapes, shardings = state_shapes(other), state_shardings(other, mesh)
    checkpoints = Checkpoints(two, CheckpointConfig())
    for call in (
        lambda: checkpoints.restore(shapes, shardings),
        lambda: restore_params(two, shapes.params, shardings.params),
    ):
        with pytest.raises(UserError, match=f"another architecture: {array} is .* in the config"):
            call()
    checkpoints.close()


@pytest.mark.parametrize(
    ("path", "step"),
    [("", 20), ("checkpoints", 20), ("checkpoints/20", 20), ("checkpoints/10", 10)],
)
def test_weights_are_taken_from_a_workdir_or_one_of_its_checkpoints(two, state, path, step):
    shapes, shardings = transformer.param_shapes(MODEL), layout(devices=8, fsdp=8).params
    params, found = restore_params(two / path, shapes, shardings)
    assert found == step
    assert_identical(params, state(step).params)
    assert str(run_folder(two / path)) == str(two)


@pytest.mark.parametrize("path", ["nowhere", "checkpoints/15", "checkpoints/20/params"])
def test_a_path_without_a_checkpoint_is_refused_by_name(two, path):
    with pytest.raises(UserError, match=f"{path}: no checkpoint there; give a run's workdir"):
        restore_params(two / path, transformer.param_shapes(MODEL), layout().params)


def test_a_workdir_that_was_stopped_before_its_first_checkpoint_is_refused_by_name(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no checkpoint there"):
        restore_params(tmp_path, transformer.param_shapes(MODEL), layout().params)


def test_parameters_of_others_are_written_one_at_a_time(tmp_path):
    first = jax.device_get(jax.jit(functools.partial(init_state, EXPERIMENT))()).params
    alive = weakref.WeakSet()

    class Unread:
        def __init__(self, value):
            self.value, self.shape = value, value.shape

        def __array__(self, dtype=None, copy=None):
            gc.collect()
            assert not alive
            read = self.value.copy().view(Tracked)
            alive.add(read)
            return read

    save_params(tmp_path, jax.tree.map(Unread, first))
    params, step = restore_params(tmp_path, transformer.param_shapes(MODEL), layout().params)
    assert step == 0
    assert_identical(params, first)


class Tracked(np.ndarray):
    """An array that can be in a set."""

    __hash__ = object.__hash__
