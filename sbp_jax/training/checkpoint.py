"""Checkpoints: plain pytrees written by Orbax in the background, verified when they are read.

A checkpoint has three items: `params`, `optimizer` (with the counters) and `meta`. `meta` holds a
checksum of every array, computed on the devices: a sum of integers, so it is the same on any mesh.
A checkpoint that cannot be read, or whose arrays do not add up, is reported and the one before it
is used.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from jax.experimental import multihost_utils

from sbp_jax import files, parallel
from sbp_jax.config import CheckpointConfig, Experiment, MeshConfig, ModelConfig, from_json
from sbp_jax.data.tokenizer import Tokenizer, load_tokenizer
from sbp_jax.errors import DISK_ERRORS, UserError
from sbp_jax.interop.folder import Folder, is_hugging_face
from sbp_jax.model import transformer
from sbp_jax.training.checksum import PIECE_WORDS, checksums, host_checksum
from sbp_jax.training.step import TrainState

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
    """The parameters of a run's newest sound checkpoint, or of one of them, and its step; or those
    of a Hugging Face folder, of which a process holds one at a time beside its part.
    """
    path = files.absolute(path)
    if is_hugging_face(path):
        params = Folder(path).params()
        return jax.tree.map(_place, params, shardings), 0
    folder, steps = _locate(path)
    target = {"params": jax.tree.map(_abstract, shapes, shardings)}
    restored, meta = _newest_sound(folder, steps, target)
    return restored["params"], meta["step"]


def load_model(path: epath.PathLike) -> tuple[ModelConfig, transformer.Params, Tokenizer]:
    """A trained model for use: its config, its parameters over this machine's devices, its ids.
    Of a run, of one of its checkpoints, or of a Hugging Face folder.
    """
    model = run_config(path).model
    axes = transformer.param_metadata(model, "axes")
    layout = parallel.shardings(parallel.make_mesh(MeshConfig()), axes)
    params, _ = restore_params(path, transformer.param_shapes(model), layout)
    return model, params, load_tokenizer(tokenizer_path(path))


def fingerprint(path: epath.PathLike) -> str:
    """Of the model that `load_model` gives: another one generates other texts. Of a run's weights
    it takes the checksums, so it reads none; those of a Hugging Face folder it reads whole.
    """
    path = files.absolute(path)
    identity: list[Any] = []
    if is_hugging_face(path):
        folder = path
    else:
        checkpoints, steps = _locate(path)
        sums = _meta(checkpoints, steps[0])["checksums"]["params"]
        identity = [run_config(path).model.architecture, sums]
        folder = epath.Path(tokenizer_path(path))
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    kinds = (".json", ".jinja", ".model", ".txt", ".safetensors")
    for file in sorted(folder.iterdir()):
        if file.suffix in kinds and not file.name.startswith("."):
            with file.open("rb") as content:
                contents = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
            digest.update(f"{file.name} {contents}\n".encode())
    return digest.hexdigest()


def check_architecture(
    path: epath.PathLike, model: ModelConfig, *, allow_change: bool = False
) -> None:
    """Refuses weights that are missing or belong to another model, without reading them. Not all
    that makes a model shows in the shapes of its weights: a change of that may be allowed.
    """
    path = files.absolute(path)
    theirs: dict[str, Any] = {}
    if is_hugging_face(path):
        folder = Folder(path)
        described: Any = folder.params()
        theirs = folder.experiment.model.architecture
    else:
        checkpoints, steps = _locate(path)
        path = checkpoints / str(steps[0])
        described = _reader(checkpoints).item_metadata(steps[0])["params"]
        config = checkpoints.parent / "config.json"
        if config.exists():  # as it is, for another version may have written it
            theirs = json.loads(config.read_text())["model"]
    ours = model.architecture
    wrong = [name for name in ours if theirs.get(name, ours[name]) != ours[name]]
    if wrong and not allow_change:
        give = ", ".join(f"--config.model.{n}={theirs[n]} (not {ours[n]})" for n in wrong)
        raise UserError(
            f"{path}: its weights have another architecture than the config: give {give}; or "
            "--allow_config_change to go on as another model"
        )
    _check_shapes(path, described, transformer.param_shapes(model))


def open_params(
    path: epath.PathLike, shapes: Any
) -> Callable[[tuple[str, ...]], Iterator[np.ndarray]]:
    """For those who cannot hold all parameters: a function that reads one of them, layer by layer
    if it has layers. One that does not add up raises `UserError` at its end.
    """
    folder, steps = _locate(files.absolute(path))
    where = folder / str(steps[0])
    _check_shapes(where, _reader(folder).item_metadata(steps[0])["params"], shapes)
    sums = _meta(folder, steps[0])["checksums"]["params"]

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
                total += host_checksum(piece, place)
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
    """Parameters that no run of ours has made, as a checkpoint that one can begin with. They may be
    of any kind that has a shape and that `np.asarray` reads: one at a time is.
    """
    folder = files.absolute(workdir) / "checkpoints"
    # A layer a piece, so that a reader of some layers need not read them all.
    whole = jax.tree.map(lambda _: ocp.SaveArgs(), params)
    layered = ocp.SaveArgs(chunk_byte_size=4 * PIECE_WORDS, shard_axes=(0,))
    pieces = {**whole, "layers": jax.tree.map(lambda _: layered, params["layers"])}
    sums: dict[str, int] = {}

    def read(path: Any, param: Any) -> np.ndarray:
        array = np.asarray(param)
        sums[jax.tree_util.keystr(path)] = host_checksum(array)
        return array

    readers = jax.tree_util.tree_map_with_path(lambda *at: partial(read, *at), params)
    default = jax.Array, ocp.type_handlers.get_type_handler(jax.Array)  # Orbax asks for it
    registry = ocp.type_handlers.create_type_handler_registry(default, (partial, _OneAtATime()))
    manager = ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False),
        item_handlers={
            "params": ocp.PyTreeCheckpointHandler(type_handler_registry=registry),
            "meta": ocp.JsonCheckpointHandler(),
        },
    )
    try:
        manager.save(
            0,
            args=ocp.args.Composite(
                meta=ocp.args.JsonSave({}),
                params=ocp.args.PyTreeSave(readers, save_args=pieces),
            ),
        )
        meta = {"step": 0, "checksums": {"params": sums}}  # known only now
        files.write_json(_meta_file(folder, 0), meta)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise _cannot_write(folder, error) from error
    finally:
        manager.close()


class _OneAtATime(ocp.type_handlers.NumpyHandler):
    """Writes an array before it reads the next: Orbax' own handlers copy all, then write."""

    def __init__(self) -> None:
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(self, readers: Any, infos: Any, args: Any = None) -> list[Any]:
        for read, info, options in zip(readers, infos, args, strict=True):
            for written in await super().serialize([read()], [info], [options]):
                written.result()
        return []


def run_folder(path: epath.PathLike) -> epath.Path:
    """The workdir that a checkpoint path belongs to: where its config.json and tokenizer are."""
    return _locate(files.absolute(path))[0].parent


def tokenizer_path(path: epath.PathLike) -> str:
    """Where `load_tokenizer` finds the one that belongs to the weights."""
    path = files.absolute(path)
    return str(path if is_hugging_face(path) else run_folder(path) / "tokenizer")


def run_config(path: epath.PathLike) -> Experiment:
    """What the run of a checkpoint path was told; what a Hugging Face folder says of its model."""
    if is_hugging_face(files.absolute(path)):
        return Folder(path).experiment
    run = run_folder(path)
    try:
        return from_json((run / "config.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{run}: no config.json there, which every run has; copy it too") from error


def _items(state: TrainState) -> dict[str, Any]:
    parts = state._asdict()
    params = parts.pop("params")
    return {"params": params, "optimizer": parts}


def _place(value: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    whole = np.asarray(value)
    return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)


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
        create=False,
        multiprocessing_options=alone,
    )


def _meta_file(folder: epath.Path, step: int) -> epath.Path:
    return folder / str(step) / "meta" / "metadata"


def _meta(folder: epath.Path, step: int) -> dict[str, Any]:
    path = _meta_file(folder, step)
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); name an earlier checkpoint") from error


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
    """The `checkpoints` folder that a path means, and the steps to try: a synthesizer's is the one
    that was chosen, of others the newest comes first.
    """
    if path.name.isdigit() and (path / "meta").exists():
        return path.parent, [int(path.name)]
    if (chosen := path / "synthesizer.json").exists():
        return path / "checkpoints", [files.read_record(chosen, "step")["step"]]
    folder = path if path.name == "checkpoints" else path / "checkpoints"
    names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    steps = sorted((int(name) for name in names if name.isdigit()), reverse=True)
    if not steps and is_hugging_face(path):
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
