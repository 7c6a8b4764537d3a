"""Checkpoints to Hugging Face folders and back.

    python -m sbp_jax.convert to-hf runs/laptop exported
    python -m sbp_jax.convert from-hf Qwen3-0.6B-Base runs/qwen3

`to-hf` writes what transformers and vLLM load unchanged: in float32, which is what checkpoints
hold, unless --dtype=bfloat16. It has one array in memory at a time, all layers of it. `from-hf`
makes a folder for --init_from. Neither leaves anything but a whole folder.
"""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from sbp_jax import cli, files
from sbp_jax.config import Experiment, ModelConfig, from_json, to_json
from sbp_jax.data.tokenizer import SentencePieceTokenizer, load_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.interop import huggingface, tokenizer_json
from sbp_jax.interop.weights import Reader, Writer
from sbp_jax.model import transformer
from sbp_jax.training.checkpoint import open_params, run_folder, save_params

DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Of the weights that to-hf writes."
)
log = logging.getLogger(__name__)


def main(direction: str, source: str, destination: str) -> None:
    jax.config.update("jax_platforms", "cpu")  # memory of the host, whatever the machine has
    if direction == "to-hf":
        to_hf(source, destination, DTYPE.value)
    elif direction == "from-hf":
        if DTYPE.value != "float32":
            raise UserError("from-hf keeps weights in float32, as training does: omit --dtype")
        model = from_hf(source, destination)
        log.info(
            "%s: train from it with --init_from=%s %s", destination, destination, model_flags(model)
        )
    else:
        raise UserError(f"{direction!r} is no direction: it is to-hf or from-hf")


def to_hf(source: str, destination: str, dtype: str = "float32") -> None:
    """Writes the model of a run, a checkpoint or a folder of `from_hf`, and its tokenizer."""
    run = run_folder(source)
    try:
        experiment = from_json((run / "config.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{run}: no config.json there, which every run has; copy it too") from error
    model = experiment.model
    tokenizer = load_tokenizer(str(run / "tokenizer"))
    config = huggingface.hf_config(
        model,
        max_position_embeddings=experiment.data.sequence_length,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=None,
        dtype=dtype,
    )
    read = open_params(source, transformer.param_shapes(model))
    with _whole_folder(destination) as folder:
        if isinstance(tokenizer, SentencePieceTokenizer):
            for name, text in tokenizer_json.to_hugging_face(tokenizer).items():
                files.write_bytes(folder / name, text.encode())
        else:
            tokenizer.save(folder)
        files.write_json(folder / "config.json", config)
        special = {name: config[name] for name in ("bos_token_id", "eos_token_id")}
        files.write_json(folder / "generation_config.json", special)
        writer = Writer(folder, huggingface.hf_shapes(model), dtype)
        for tensor in huggingface.tensors(model):
            for name, value in huggingface.to_hf(read(tensor.path), tensor, model):
                writer.write(name, value)
        writer.close()
    log.info("%s: %s, %s", destination, config["architectures"][0], dtype)
    if model.attention_bias and isinstance(tokenizer, SentencePieceTokenizer):
        log.warning(
            "AutoTokenizer of transformers 5 gives every Qwen2 model Qwen2's tokenizer, and other "
            "ids than this one's: load it with PreTrainedTokenizerFast"
        )


def from_hf(source: str, destination: str) -> ModelConfig:
    """Makes a folder with a checkpoint, its config and its tokenizer, of a Hugging Face folder."""
    folder = Path(source)
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no config.json there; is it a Hugging Face model?") from error
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: not JSON ({error}); fetch it again") from error
    model = huggingface.model_config_from_hf(config)
    tokenizer = load_tokenizer(source)
    if tokenizer.vocab_size > model.vocab_size:
        raise UserError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size} ids, its model "
            f"{model.vocab_size}; they do not belong together"
        )
    weights = Reader(folder)
    names = _names(folder, weights, model)
    experiment = dataclasses.replace(
        Experiment(model=model),
        data=dataclasses.replace(
            Experiment().data, sequence_length=config.get("max_position_embeddings", 2048)
        ),
    )
    with _whole_folder(destination) as new:
        params: dict[str, Any] = {"layers": {}}
        for tensor in huggingface.tensors(model):
            place = params["layers"] if tensor.layered else params
            place[tensor.path[-1]] = jnp.asarray(
                huggingface.from_hf(
                    lambda name: weights.read(names[name]), tensor, model, jnp.float32
                )
            )
        tokenizer.save(new / "tokenizer")
        save_params(new, params)
        files.write_bytes(new / "config.json", to_json(experiment).encode())
    return model


def model_flags(model: ModelConfig) -> str:
    """What makes of any config one for this architecture, whose weights do not say all of it."""
    computed = ("dtype", "attention", "remat", "scan_layers", "loss_chunks")
    return " ".join(
        f"--config.model.{name}={value}"
        for name, value in dataclasses.asdict(model).items()
        if name not in computed
    )


def _names(folder: Path, weights: Reader, model: ModelConfig) -> dict[str, str]:
    """Each tensor's name in the files, where base models leave a prefix out: all, and no other."""
    there = set(weights.places)
    names = {}
    for name in huggingface.hf_shapes(model):
        bare = name.removeprefix("model.")
        names[name] = bare if name not in there and bare in there else name
        if names[name] not in there:
            raise UserError(
                f"{folder}: tensor {name!r} is missing, which config.json asks for; fetch the "
                "folder again"
            )
    # Harmless: the embedding a second time, and frequencies that follow from the config.
    spare = {"lm_head.weight"} if model.tie_embeddings else set()
    extra = sorted(
        name
        for name in there - set(names.values()) - spare
        if not name.endswith("rotary_emb.inv_freq")
    )
    if extra:
        raise UserError(
            f"{folder}: tensor {extra[0]!r} has no place in the model that config.json describes "
            f"({len(extra)} such); the weights belong to another architecture"
        )
    return names


@contextlib.contextmanager
def _whole_folder(destination: str) -> Iterator[Path]:
    """A folder beside the destination, which gets its name when all is written."""
    if files.is_remote(destination):
        raise UserError(f"{destination}: write to a local folder, then copy it there")
    final = Path(destination).absolute()
    if final.exists() and not (final.is_dir() and not any(final.iterdir())):
        raise UserError(f"{final} exists; delete it, or name another folder")
    folder = final.with_name(f".{final.name}.tmp")
    lock = folder / ".lock"
    with files.exclusive(lock, f"{final}: another process is writing it"):
        try:
            for left in set(folder.iterdir()) - {lock}:  # by one that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield folder
            lock.unlink()
            os.replace(folder, final)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


if __name__ == "__main__":
    cli.run(main, needs=(), arguments=("direction (to-hf or from-hf)", "SRC", "DST"))
