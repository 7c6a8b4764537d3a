"""vLLM's own server of a small model that we exported, on loopback while tests need it."""

import argparse
import contextlib
import difflib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from sbp_jax.config import DataConfig, Experiment, ModelConfig, to_json
from sbp_jax.convert import to_hf
from sbp_jax.data.tokenizer import Tokenizer, train_tokenizer
from sbp_jax.model.transformer import param_shapes
from sbp_jax.training.checkpoint import save_params

NAME = "small"  # of the model, to those who ask the server
SOURCE = "".join(Path(module.__file__).read_text() for module in (argparse, difflib, textwrap))
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def small_run(
    folder: Path, context: int, draw: Callable[[Tokenizer, Any, Any], Any], **shape: int
) -> Path:
    """The folder of a run: a tokenizer of Python's sources and weights that `draw` has drawn."""
    texts = [SOURCE[i : i + 1000] for i in range(0, len(SOURCE), 1000)]
    tokenizer = train_tokenizer(texts, 500, folder / "tokenizer")
    model = ModelConfig(vocab_size=tokenizer.vocab_size, **shape)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: draw(tokenizer, path[-1].key, leaf), param_shapes(model)
    )
    save_params(folder, params)
    experiment = Experiment(model=model, data=DataConfig(sequence_length=context))
    (folder / "config.json").write_text(to_json(experiment))
    return folder


@contextlib.contextmanager
def serving(run: Path, context: int, *flags: str) -> Iterator[str]:
    """Where the server is. All its processes are one group, which ends with the tests."""
    if not importlib.util.find_spec("vllm"):
        pytest.skip("vllm is not installed")
    folder = run.parent
    to_hf(str(run), str(folder / "exported"))
    (folder / "chat.jinja").write_text(CHAT_TEMPLATE)
    # Where libtpu is installed, vLLM and the processes it starts take the machine for a TPU.
    (folder / "hidden").mkdir()
    (folder / "hidden" / "libtpu.py").write_text("raise ImportError")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "model": folder / "exported",
        "served-model-name": NAME,
        "host": "127.0.0.1",
        "port": port,
        "dtype": "float32",
        "max-model-len": context,
        "generation-config": "vllm",
        "chat-template": folder / "chat.jinja",
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    # What `vllm serve` starts; that command itself fails in the CPU build, which is installed
    # under another name than the one whose version it looks up.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [*command, *words, *flags],
            env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": str(folder / "hidden")},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while True:
            said = (folder / "log").read_text()[-3000:]
            assert server.poll() is None, said
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
