"""A model and its tokenizer as a Hugging Face folder that transformers and vLLM load unchanged.

A folder is written beside its place and gets its name when it is whole. Parameters come from a
function that reads one at a time, so this knows nothing of checkpoints.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.tokenizer import SentencePieceTokenizer, Tokenizer
from sbp_jax.errors import UserError
from sbp_jax.interop import huggingface, tokenizer_json
from sbp_jax.interop.weights import Writer

log = logging.getLogger(__name__)


def export(
    destination: str,
    experiment: Experiment,
    tokenizer: Tokenizer,
    read: Callable[[tuple[str, ...]], Iterable[Any]],
    dtype: str = "float32",
) -> None:
    """`read` yields the layers of a parameter, or it alone."""
    model = experiment.model
    config = huggingface.hf_config(
        model,
        max_position_embeddings=experiment.data.sequence_length,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=None,
        dtype=dtype,
    )
    with whole_folder(destination) as folder:
        if isinstance(tokenizer, SentencePieceTokenizer):
            for name, text in tokenizer_json.to_hugging_face(tokenizer).items():
                files.write_bytes(folder / name, text.encode())
        else:
            tokenizer.save(folder)
        files.write_json(folder / "config.json", config)
        stops = list(tokenizer.stop_ids)
        special = {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": stops if len(stops) > 1 else stops[0],
        }
        files.write_json(folder / "generation_config.json", special)
        writer = Writer(folder, huggingface.hf_shapes(model), dtype)
        for tensor in huggingface.tensors(model):
            for name, value in huggingface.to_hf(read(tensor.path), tensor, model):
                writer.write(name, value)
        writer.close()
    kind = config["architectures"][0]
    log.info("%s: %s, %s, %.3g GB", destination, kind, dtype, size(destination) / 1e9)
    if model.attention_bias and isinstance(tokenizer, SentencePieceTokenizer):
        log.warning(
            "AutoTokenizer of transformers 5 gives every Qwen2 model Qwen2's tokenizer, and other "
            "ids than this one's: load it with PreTrainedTokenizerFast"
        )


def size(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*"))


@contextlib.contextmanager
def whole_folder(destination: str) -> Iterator[Path]:
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
