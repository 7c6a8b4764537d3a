"""Checkpoints: plain pytrees written by Orbax in the background, verified when they are read.

A checkpoint has three items: `params`, `optimizer` (with the counters) and `meta`. `meta` holds a
checksum of every array, computed on the devices: a sum of integers, so it is the same on any mesh.
A checkpoint that cannot be read, or whose arrays do not add up, is reported and the one before it
is used.
"""

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from jax.experimental import multihost_utils

from sbp_jax import files, parallel
from sbp_jax.config import CheckpointConfig, MeshConfig, ModelConfig, from_json
from sbp_jax.data.tokenizer import Tokenizer, load_tokenizer
from sbp_jax.errors import DISK_ERRORS, UserError
from sbp_jax.model import transformer
from sbp_jax.training.step import TrainState

PIECE_WORDS = 1 << 22
log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints`."""

    def __init__(self, workdir: epath.PathLike, config: CheckpointConfig):
        self.folder = files.absolute(workdir) / "checkpoints"
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
        """The newest sound checkpoint, laid out as `shardings`, and its meta, if there is one."""
        target = _items(jax.tree.map(_abstract, shapes, shardings))
        steps = sorted(self.manager.all_steps(), reverse=True)
        if not steps:
            return None
        restored, meta = _newest_sound(self.folder, steps, target)
        return TrainState(**restored["optimizer"], params=restored["params"]), meta

    def close(self) -> None:
        self.manager.close()


def restore_params(path: epath.PathLike, shapes: Any, shardings: Any) -> tuple[Any, int]:
    """The parameters of a run's newest sound checkpoint, or of one of them; and its step."""
    folder, steps = _locate(files.absolute(path))
    target = {"params": jax.tree.map(_abstract, shapes, shardings)}
    restored, meta = _newest_sound(folder, steps, target)
    return restored["params"], meta["step"]


def load_model(path: epath.PathLike) -> tuple[ModelConfig, transformer.Params, Tokenizer]:
    """A trained model for use: its config, its parameters over this machine's devices, its ids."""
    run = run_folder(path)
    model = from_json((run / "config.json").read_text()).model
    axes = transformer.param_metadata(model, "axes")
    layout = parallel.shardings(parallel.make_mesh(MeshConfig()), axes)
    params, _ = restore_params(path, transformer.param_shapes(model), layout)
    return model, params, load_tokenizer(str(run / "tokenizer"))


def check_architecture(path: epath.PathLike, shapes: Any) -> None:
    """Refuses weights that are missing or of another shape, without reading them."""
    folder, steps = _locate(files.absolute(path))
    described = _reader(folder).item_metadata(steps[0])["params"]
    _check_shapes(folder / str(steps[0]), described, shapes)


def open_params(
    path: epath.PathLike, shapes: Any
) -> Callable[[tuple[str, ...]], Iterator[np.ndarray]]:
    """For those who cannot hold all parameters: a function that reads one of them, layer by layer
    if it has layers. One that does not add up raises `UserError` at its end.
    """
    folder, steps = _locate(files.absolute(path))
    check_architecture(path, shapes)
    where = folder / str(steps[0])
    meta = _reader(folder).restore(steps[0], args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
    sums = meta["meta"]["checksums"]["params"]

    def read(keys: tuple[str, ...]) -> Iterator[np.ndarray]:
        base = str(where / "params") if files.is_remote(where) else f"file://{where}/params/"
        kvstore = {"driver": "ocdbt", "base": base, "path": ".".join(keys)}
        total, place, damage = 0, 0, "its checksum is another"
        try:
            array = ts.open({"driver": "zarr", "kvstore": kvstore}, open=True).result()
            count = array.shape[0]
            chunk: Any = array.chunk_layout.read_chunk.shape
            layers = chunk[0] if keys[0] == "layers" else count  # a chunk is read as a whole
            for start in range(0, count, layers):
                piece = array[start : min(start + layers, count)].read().result()
                total += _host_checksum(piece, place)
                place += piece.size
                yield from piece if keys[0] == "layers" else [piece]
        except ValueError as error:
            damage = " ".join(str(error).split())[:300]
        name = "".join(f"['{key}']" for key in keys)
        if total % 2**32 != sums[name]:
            raise UserError(
                f"{where}: {'/'.join(keys)} is damaged ({damage}); name an earlier checkpoint"
            )

    return read


def save_params(workdir: epath.PathLike, params: Any) -> None:
    """Parameters that no run of ours has made, as a checkpoint that one can begin with."""
    folder = files.absolute(workdir) / "checkpoints"
    # A layer a piece, so that a reader of some layers need not read them all.
    whole = jax.tree.map(lambda _: ocp.SaveArgs(), params)
    layered = ocp.SaveArgs(chunk_byte_size=4 * PIECE_WORDS, shard_axes=(0,))
    pieces = {**whole, "layers": jax.tree.map(lambda _: layered, params["layers"])}
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    sums = {jax.tree_util.keystr(path): _host_checksum(np.asarray(x)) for path, x in flat}
    meta = {"step": 0, "checksums": {"params": sums}}
    manager = _manager(folder, enable_async_checkpointing=False)
    try:
        manager.save(
            0,
            args=ocp.args.Composite(
                meta=ocp.args.JsonSave(meta),
                params=ocp.args.StandardSave(params, save_args=pieces),
            ),
        )
    except (OSError, ValueError) as error:
        raise _cannot_write(folder, error) from error
    finally:
        manager.close()


def run_folder(path: epath.PathLike) -> epath.Path:
    """The workdir that a checkpoint path belongs to: where its config.json and tokenizer are."""
    return _locate(files.absolute(path))[0].parent


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


def _host_checksum(x: np.ndarray, first: int = 0) -> int:
    """The same on the host, of a part whose first word has that place; parts add up."""
    words = x.reshape(-1).view(np.uint32)
    total = 0
    for start in range(0, words.size, PIECE_WORDS):
        piece = words[start : start + PIECE_WORDS]
        places = np.arange(first + start, first + start + piece.size, dtype=np.uint64)
        total += int(np.sum(piece * (2 * places + 1).astype(np.uint32), dtype=np.uint32))
    return total % 2**32


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


def _reader(folder: epath.Path) -> ocp.CheckpointManager:
    """Reads without waiting for the other processes."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"reader{me}"
    )
    return _manager(
        folder,
        read_only=True,
        create=False,
        save_interval_steps=0,
        multiprocessing_options=alone,
    )


def _newest_sound(
    folder: epath.Path, steps: list[int], targets: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The items of the first step that all processes can read, and its meta; every step that is
    passed over is reported.

    Each process reads on its own: Orbax' default is to wait for the others, for ever if one of them
    has met with damage.
    """
    reader = _reader(folder)
    for step in steps:
        restored: dict[str, Any] = {}
        damage = None
        try:
            restored, meta = _read(reader, step, targets)
        except (UserError, MemoryError, PermissionError):
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
            if "RESOURCE_EXHAUSTED" in str(error):
                raise
            damage = " ".join(str(error).split())[:300]
        readable = multihost_utils.process_allgather(np.array(bool(restored)))
        if not readable.all():
            damage = damage or "another process cannot read its part"
        elif wrong := _wrong_sums(restored, meta):
            damage = f"{', '.join(wrong)}: not what was saved, by checksum"
        if damage is None:
            return restored, meta
        where = folder / str(step)
        log.warning("checkpoint %s is damaged (%s); trying the one before it", where, damage)
    raise UserError(
        f"{folder}: none of the checkpoints {steps} can be read; put a copy back, or begin another "
        "run"
    )


def _read(
    reader: ocp.CheckpointManager, step: int, targets: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    meta = reader.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    described = reader.item_metadata(step)
    for name, target in targets.items():
        _check_shapes(reader.directory / str(step), described[name], target)
    args = {name: ocp.args.StandardRestore(target) for name, target in targets.items()}
    restored = reader.restore(step, args=ocp.args.Composite(**args))
    return {name: restored[name] for name in targets}, meta


def _wrong_sums(items: dict[str, Any], meta: dict[str, Any]) -> list[str]:
    return [
        name + array
        for name, tree in items.items()
        for array, value in checksums(tree).items()
        if value != meta["checksums"][name].get(array)
    ]


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


def _locate(path: epath.Path) -> tuple[epath.Path, list[int]]:
    """The `checkpoints` folder that a path means, and the steps to try, newest first."""
    if path.name.isdigit() and (path / "meta").exists():
        return path.parent, [int(path.name)]
    folder = path if path.name == "checkpoints" else path / "checkpoints"
    names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    steps = sorted((int(name) for name in names if name.isdigit()), reverse=True)
    if not steps and any(path.glob("*.safetensors")):
        raise UserError(
            f"{path} is a Hugging Face folder: make a checkpoint of it with "
            f"python -m sbp_jax.convert from-hf {path} DST, and name DST"
        )
    if not steps:
        raise UserError(
            f"{path}: no checkpoint there; give a run's workdir, or one folder of its checkpoints/"
        )
    return folder, steps


def _cannot_write(folder: epath.Path, error: Exception) -> UserError:
    text = " ".join(str(error).split())
    # TensorStore says a lot before it comes to the cause.
    known = [os.strerror(code) for code in DISK_ERRORS if os.strerror(code) in text]
    reason = known[0] if known else text[:300]
    return UserError(f"{folder}: cannot write a checkpoint: {reason}; the earlier ones are intact")
