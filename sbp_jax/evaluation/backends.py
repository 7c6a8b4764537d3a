"""lm-eval's own backends on the exported model: what our numbers are held to.

python -m sbp_jax.evaluate --engine=hf --checkpoint=runs/laptop --workdir=W
"""

import importlib.metadata
from pathlib import Path
from typing import Any
from unittest import mock

from sbp_jax.config import EngineConfig
from sbp_jax.errors import UserError
from sbp_jax.inference.vllm import hugging_face_folder, prepare_environment


def open_backend(kind: str, checkpoint: str, export_to: Path, engine: EngineConfig) -> Any:
    if kind == "vllm":
        return _vllm(str(hugging_face_folder(checkpoint, export_to)), engine)
    try:
        import torch
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserError(
            f'lm-eval\'s hf backend lacks {error.name}: pip install "lm-eval[hf]"'
        ) from error
    folder = hugging_face_folder(checkpoint, export_to)
    length = engine.max_length or None
    return HFLM(
        str(folder),
        device="cuda" if torch.cuda.is_available() else "cpu",
        dtype="auto",
        batch_size=engine.batch_size,
        max_length=length,
    )


def _vllm(folder: str, engine: EngineConfig) -> Any:
    on_cpu = prepare_environment()
    import vllm

    found: Any = importlib.metadata.version

    def version(name: str) -> str:  # lm-eval asks for a name that the CPU build has not
        return vllm.__version__.split("+")[0] if name == "vllm" else found(name)

    with mock.patch("importlib.metadata.version", version):
        from lm_eval.models.vllm_causallms import VLLM
    only_cpu = {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 30, "dtype": "float32"}
    return VLLM(
        folder,
        max_model_len=engine.max_length or None,
        tensor_parallel_size=engine.tensor,
        gpu_memory_utilization=engine.memory_fraction,
        max_num_seqs=engine.batch_size,
        **(only_cpu if on_cpu else {}),
    )
