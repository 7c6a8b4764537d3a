"""Checkpoints: plain pytrees written by Orbax in the background, verified when they are read.

A checkpoint has three items: `params`, `optimizer` (with the counters) and `meta`. `meta` holds a
checksum of every array, computed on the devices: a sum of integers, so it is the same on any mesh.
A checkpoint that cannot be read, or whose arrays do not add up, is reported and the one before it
is used.
"""

import logging
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from sbp_jax.config import CheckpointConfig
from sbp_jax.errors import DISK_ERRORS, UserError
from sbp_jax.training.step import TrainState

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints`."""

    def __init__(self, workdir: epath.PathLike, config: CheckpointConfig):
        self.folder = epath.Path(workdir).absolute() / "checkpoints"
        self.manager = _manager(
            self.folder,
            max_to_keep=config.keep,
            keep_period=config.keep_every_steps or None,
            cleanup_tmp_directories=True,
        )

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Starts writing and returns; the step's number is the number of steps done."""
        step = int(state.step)
        items = _items(state)
        meta = {
            **meta,
            "step": step,
            "checksums": {name: checksums(tree) for name, tree in items.items()},
        }
        try:
            if step in self.manager.all_steps():  # a damaged one, which `restore` passed over
                self.manager.delete(step)
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    meta=ocp.args.JsonSave(meta),
                    **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
                ),
                force=True,
            )
        except (OSError, ValueError) as error:
            raise _cannot_write(self.folder, error) from error

    def wait(self) -> None:
        """Returns when everything is on disk."""
        try:
            self.manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise _cannot_write(self.folder, error) from error

    def restore(
        self, shapes: TrainState, shardings: TrainState
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest sound checkpoint, laid out as `shardings`, and its meta; None when there is
        none.
        """
        target = jax.tree.map(_abstract, shapes, shardings)

        def read(step: int) -> tuple[TrainState, dict[str, Any]]:
            restored, meta = _read(self.manager, step, _items(target))
            return TrainState(**restored["optimizer"], params=restored["params"]), meta

        return _newest_sound(self.folder, sorted(self.manager.all_steps(), reverse=True), read)

    def close(self) -> None:
        self.manager.close()


def restore_params(path: epath.PathLike, shapes: Any, shardings: Any) -> tuple[Any, int]:
    """The parameters of a run's newest sound checkpoint, or of one of them; and its step."""
    path = epath.Path(path).absolute()
    folder, wanted = _locate(path)
    manager = _manager(folder, read_only=True)
    target = jax.tree.map(_abstract, shapes, shardings)

    def read(step: int) -> tuple[Any, int]:
        return _read(manager, step, {"params": target})[0]["params"], step

    steps = [wanted] if wanted is not None else sorted(manager.all_steps(), reverse=True)
    found = _newest_sound(folder, steps, read)
    manager.close()
    if found is None:
        raise UserError(
            f"{path}: no checkpoint there; give a run's workdir, or one folder of its checkpoints/"
        )
    return found


def run_folder(path: epath.PathLike) -> epath.Path:
    """The workdir that a checkpoint path belongs to: where its config.json and tokenizer are."""
    return _locate(epath.Path(path).absolute())[0].parent


def checksums(tree: Any) -> dict[str, int]:
    """An integer for each array: each word of its bits, times an odd number that depends on its
    place, summed.
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    sums = jax.device_get(_checksums([leaf for _, leaf in leaves]))
    return {
        jax.tree_util.keystr(path): int(value)
        for (path, _), value in zip(leaves, sums, strict=True)
    }


@jax.jit
def _checksums(leaves: list[jax.Array]) -> list[jax.Array]:
    def checksum(x: jax.Array) -> jax.Array:
        words = jax.lax.bitcast_convert_type(
            x, {4: jnp.uint32, 2: jnp.uint16}[x.dtype.itemsize]
        ).astype(jnp.uint32)
        place = jnp.zeros(x.shape, jnp.uint32)
        for axis, size in enumerate(x.shape):
            place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)

    return [checksum(x) for x in leaves]


def _items(state: TrainState) -> dict[str, Any]:
    parts = state._asdict()
    params = parts.pop("params")
    return {"params": params, "optimizer": parts}


def _abstract(shape: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _manager(folder: epath.Path, **options: Any) -> ocp.CheckpointManager:
    names = {
        "params": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
    }
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(**options),
        item_handlers={**names, "meta": ocp.JsonCheckpointHandler()},
    )


def _read(
    manager: ocp.CheckpointManager, step: int, targets: dict[str, Any]
) -> tuple[dict[str, Any], dict]:
    meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    for name, target in targets.items():
        described = manager.item_metadata(step)[name]
        _check_shapes(manager.directory / str(step), described, target)
    args = {name: ocp.args.StandardRestore(target) for name, target in targets.items()}
    restored = manager.restore(step, args=ocp.args.Composite(**args))
    for name in targets:
        for array, value in checksums(restored[name]).items():
            if value != meta["checksums"][name][array]:
                raise OSError(f"{name}{array} does not match its checksum")
    return {name: restored[name] for name in targets}, meta


def _newest_sound(folder: epath.Path, steps: list[int], read: Callable[[int], Any]) -> Any:
    """What `read` makes of the first step that it can read; every one passed over is reported."""
    for step in steps:
        found, reason = None, "another process cannot read its part"
        try:
            found = read(step)
        except UserError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
            reason = " ".join(str(error).split())[:300]
        if multihost_utils.process_allgather(np.array(found is not None)).all():
            return found
        where = folder / str(step)
        log.warning("checkpoint %s is damaged (%s); trying the one before it", where, reason)
    if steps:
        raise UserError(
            f"{folder}: none of the checkpoints {steps} can be read; delete it to start over"
        )
    return None


def _check_shapes(path: epath.Path, described: Any, target: Any) -> None:
    """Refuses a checkpoint of another architecture by the name of the first array that differs."""

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        flat = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {
            "/".join(
                str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path
            ): leaf.shape
            for path, leaf in flat
        }

    there, wanted = shapes(getattr(described, "tree", described)), shapes(target)
    if not there:
        raise OSError("the description of its arrays is missing")
    for name in sorted({**there, **wanted}):
        if there.get(name) != wanted.get(name):
            raise UserError(
                f"{path}: this checkpoint has another architecture: {name} is "
                f"{there.get(name, 'missing')} there, {wanted.get(name, 'missing')} in the config; "
                "use the config that it was made with"
            )


def _locate(path: epath.Path) -> tuple[epath.Path, int | None]:
    """The `checkpoints` folder that a path means, and the step if it names one."""
    if path.name.isdigit() and (path.parent / path.name / "meta").exists():
        return path.parent, int(path.name)
    if (path / "checkpoints").exists():
        return path / "checkpoints", None
    if path.name == "checkpoints" and path.exists():
        return path, None
    raise UserError(
        f"{path}: no checkpoint there; give a run's workdir, or one folder of its checkpoints/"
    )


def _cannot_write(folder: epath.Path, error: Exception) -> UserError:
    text = " ".join(str(error).split())
    # TensorStore says a lot before it comes to the cause.
    known = [os.strerror(code) for code in DISK_ERRORS if os.strerror(code) in text]
    reason = known[0] if known else text[:300]
    return UserError(f"{folder}: cannot write a checkpoint: {reason}; the earlier ones are intact")
