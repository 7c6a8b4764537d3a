"""Checkpoints to Hugging Face folders and back.

    python -m sbp_jax.convert to-hf runs/laptop exported
    python -m sbp_jax.convert from-hf Qwen3-0.6B-Base runs/qwen3

`to-hf` writes what transformers and vLLM load unchanged: in float32, which is what checkpoints
hold, unless --dtype=bfloat16. `from-hf` makes a checkpoint: --init_from reads the folder itself as
well, but as often as a run begins. Either has one array in memory at a time, all layers of it, and
leaves nothing but a whole folder.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import logging

import jax
from absl import flags

from sbp_jax import files
from sbp_jax.config import ModelConfig, to_json
from sbp_jax.data.tokenizer import load_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.interop.export import export, size, whole_folder
from sbp_jax.interop.folder import Folder
from sbp_jax.model import transformer
from sbp_jax.training.checkpoint import open_params, run_config, save_params, tokenizer_path

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
        log.info("train from it with --init_from=%s %s", destination, model_flags(model))
    else:
        raise UserError(f"{direction!r} is no direction: it is to-hf or from-hf")


def to_hf(source: str, destination: str, dtype: str = "float32") -> None:
    """Writes the model of a run, a checkpoint or a folder of `from_hf`, and its tokenizer."""
    experiment = run_config(source)
    tokenizer = load_tokenizer(tokenizer_path(source))
    read = open_params(source, transformer.param_shapes(experiment.model))
    export(destination, experiment, tokenizer, read, dtype)


def from_hf(source: str, destination: str) -> ModelConfig:
    """Makes a folder with a checkpoint, its config and its tokenizer, of a Hugging Face folder."""
    folder = Folder(source)
    with whole_folder(destination) as new:
        folder.tokenizer.save(new / "tokenizer")
        save_params(new, folder.params())
        files.write_bytes(new / "config.json", to_json(folder.experiment).encode())
    log.info("%s: %.3g GB", destination, size(destination) / 1e9)
    return folder.experiment.model


def model_flags(model: ModelConfig) -> str:
    """What makes of any config one for this architecture, whose weights do not say all of it."""
    return " ".join(f"--config.model.{k}={v}" for k, v in model.architecture.items())


if __name__ == "__main__":
    cli.run(main, needs=(), arguments=("direction (to-hf or from-hf)", "SRC", "DST"))
