"""Vectors of documents from a Qwen3-Embedding model in vLLM, for which it is the faster engine."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sbp_jax.config import EngineConfig, PairingConfig
from sbp_jax.data.tokenizer import load_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference.vllm import prepare_environment
from sbp_jax.pairing.hidden import end_of_text, tokens


class VllmEmbedder:
    """Texts in, unit vectors out. It gets token ids, so that both engines see the same."""

    def __init__(self, pairing: PairingConfig, engine: EngineConfig):
        on_cpu = prepare_environment()
        import vllm

        folder = pairing.model
        self._tokenizer = load_tokenizer(folder)
        self._end = end_of_text(folder, self._tokenizer)
        settings = json.loads((Path(folder) / "config.json").read_text())
        self._most = min(pairing.max_tokens, settings["max_position_embeddings"])
        float32 = "float32" in (settings.get("dtype"), settings.get("torch_dtype"))
        try:
            self._engine = vllm.LLM(
                folder,
                runner="pooling",
                convert="embed",
                dtype="float32" if on_cpu and float32 else "auto",
                max_model_len=self._most,
                max_num_seqs=engine.batch_size,
                tensor_parallel_size=engine.tensor,
                gpu_memory_utilization=engine.memory_fraction,
                enforce_eager=on_cpu,
                kv_cache_memory_bytes=1 << 30 if on_cpu else None,
                use_tqdm_on_load=False,
            )
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:500]
            raise UserError(f"{folder}: vLLM does not start with it: {reason}") from error

    def __call__(self, texts: list[str]) -> np.ndarray:
        ids = tokens(self._tokenizer, texts, self._most, self._end)
        prompts: list[Any] = [{"prompt_token_ids": one} for one in ids]
        answers = self._engine.embed(prompts, use_tqdm=False)
        vectors = np.array([answer.outputs.embedding for answer in answers], np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def close(self) -> None:
        self._engine.llm_engine.engine_core.shutdown()
