"""A model of ours behind vLLM's own server drives a whole search. Its weights are random, so its
ideas are nonsense: the search says so, idea by idea, and ends with the verdict that there is none.
"""

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from vllm_server import serving, small_run

from research_env.bank import Bank

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[3]
CONTEXT = 8192


@pytest.fixture
def url(tmp_path):
    random = np.random.default_rng(0)

    def draw(_, __, leaf):
        return jnp.asarray(random.normal(size=leaf.shape) * 0.3, np.float32)

    shape = {"num_layers": 1, "d_model": 32, "num_heads": 2, "num_kv_heads": 1, "d_ff": 64}
    run = small_run(tmp_path / "run", CONTEXT, draw, head_dim=32, **shape)  # vLLM's least on CPUs
    # Prompts with seeds are not cut: docs/entigraph.md.
    whole = ("--no-enable-chunked-prefill", "--max-num-batched-tokens", str(2 * CONTEXT))
    with serving(run, CONTEXT, *whole) as address:
        yield address


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
