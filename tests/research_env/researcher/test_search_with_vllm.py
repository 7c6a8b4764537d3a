"""A model of ours behind vLLM's own server drives a whole search. Its weights are random, so its
ideas are nonsense: the search says so, idea by idea, and ends with the verdict that there is none.
"""

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
from pathlib import Path

import pytest

from research_env.bank import Bank

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[3]
CONTEXT = 8192
SOURCE = "".join(Path(module.__file__).read_text() for module in (argparse, difflib, textwrap))
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture
def exported(tmp_path):
    """A Hugging Face folder of a small model."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from sbp_jax.config import DataConfig, Experiment, ModelConfig, to_json
    from sbp_jax.convert import to_hf
    from sbp_jax.data.tokenizer import train_tokenizer
    from sbp_jax.model.transformer import param_shapes
    from sbp_jax.training.checkpoint import save_params

    run = tmp_path / "run"
    texts = [SOURCE[i : i + 1000] for i in range(0, len(SOURCE), 1000)]
    tokenizer = train_tokenizer(texts, 500, run / "tokenizer")
    model = ModelConfig(
        num_layers=1,
        d_model=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,  # the least that vLLM has on CPUs
        d_ff=64,
        vocab_size=tokenizer.vocab_size,
    )
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=leaf.shape) * 0.3, np.float32),
        param_shapes(model),
    )
    save_params(run, params)
    experiment = Experiment(model=model, data=DataConfig(sequence_length=CONTEXT))
    (run / "config.json").write_text(to_json(experiment))
    to_hf(str(run), str(tmp_path / "exported"))
    return tmp_path / "exported"


@pytest.fixture
def url(exported):
    """Where the server is. All its processes are one group, which ends with the test."""
    if not importlib.util.find_spec("vllm"):
        pytest.skip("vllm is not installed")
    folder = exported.parent
    (folder / "chat.jinja").write_text(CHAT_TEMPLATE)
    # Where libtpu is installed, vLLM and the processes it starts take the machine for a TPU.
    (folder / "hidden").mkdir()
    (folder / "hidden" / "libtpu.py").write_text("raise ImportError")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "model": exported,
        "served-model-name": "small",
        "host": "127.0.0.1",
        "port": port,
        "dtype": "float32",
        "max-model-len": CONTEXT,
        "max-num-batched-tokens": 2 * CONTEXT,  # prompts with seeds are not cut: docs/entigraph.md
        "generation-config": "vllm",
        "chat-template": folder / "chat.jinja",
    }
    flags = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    flags += ["--enforce-eager", "--no-enable-chunked-prefill"]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags],
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


def test_a_model_that_speaks_nonsense_drives_a_search_to_its_end(url, tmp_path):
    command = [sys.executable, "-m", "research_env.search", "--env=synthetic", "--ideas=4"]
    command += [f"--workdir={tmp_path / 'search'}", "--engine=api"]
    command += [f"--config={ROOT / 'configs' / 'laptop.py'}"]
    fields = {"api.url": url, "api.model": "small", "research.answer_tokens": 48}
    fields |= {"research.ideas": 2, "research.samples": 2, "research.revisions": 1}
    fields |= {"research.retries": 1, "research.context_tokens": CONTEXT}
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with Bank(tmp_path / "search" / "ideas.db") as bank:
        verdict = bank.get("verdict")
        assert verdict["said"] in done.stdout
        assert not verdict["significant"] and verdict["idea"] is None
        ideas = bank.ideas()[1:]
        assert len(ideas) == 4
        assert {idea.state for idea in ideas} == {"patch_failed"}
        for idea in ideas:
            assert idea.author == "small" and idea.reason and idea.tokens > 0
            assert idea.title == "no idea" and bank.context(idea.context)
