"""`python -m sbp_jax.synthesize`, as a person starts it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from sbp_jax.config import DataConfig, Experiment, ModelConfig, to_json
from sbp_jax.data.corpus import open_corpus, read_documents, verify_corpus
from sbp_jax.data.tokenizer import train_tokenizer
from sbp_jax.model.transformer import param_shapes
from sbp_jax.training.checkpoint import save_params

ROOT = Path(__file__).resolve().parents[1]
TOYWORLD = ("--input=toyworld:held_out", "--config.toyworld.held_out_documents=30")
SHORT = (
    "--config.synthesis.max_tokens=8",
    "--config.engine.batch_size=8",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder, with a model that has learnt nothing."""
    folder = tmp_path_factory.mktemp("run") / "run"
    model = ModelConfig(
        num_layers=2, d_model=32, num_heads=2, num_kv_heads=1, head_dim=16, d_ff=64, vocab_size=320
    )
    random = np.random.default_rng(0)
    draw = lambda leaf: random.normal(0.2, 0.2, leaf.shape).astype(np.float32)  # noqa: E731
    save_params(folder, jax.tree.map(draw, param_shapes(model)))
    experiment = Experiment(model=model, data=DataConfig(sequence_length=256))
    (folder / "config.json").write_text(to_json(experiment))
    documents = read_documents(open_corpus("toyworld:held_out", experiment), "stop")
    train_tokenizer([document.text for document in documents], 320, folder / "tokenizer")
    return folder


def synthesize(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sbp_jax.synthesize", "--config=configs/laptop.py", *flags],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
        capture_output=True,
        text=True,
    )


def hashes(output: Path) -> dict[str, str]:
    files = (path for path in output.iterdir() if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def error(*flags: str) -> str:
    done = synthesize(*flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_run_makes_a_corpus_and_a_limit_in_between_changes_no_byte(run, tmp_path):
    flags = (f"--checkpoint={run}", *TOYWORLD, *SHORT)
    done = synthesize(*flags, f"--output={tmp_path / 'dry'}", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "requests       30" in done.stdout and not (tmp_path / "dry").exists()

    done = synthesize(*flags, f"--output={tmp_path / 'whole'}")
    assert done.returncode == 0, done.stderr
    verify_corpus(tmp_path / "whole")
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    assert sum(manifest["finish_reasons"].values()) == 30
    assert 0 < manifest["errors"] < 30 and "context" in manifest["error_examples"][0]["error"]
    assert f"prompt tokens  {manifest['prompt_tokens']:,}\n" in synthesize(
        *flags, f"--output={tmp_path / 'dry'}", "--dry_run"
    ).stdout.replace("about ", "")

    output, limit = f"--output={tmp_path / 'stopped'}", manifest["prompt_tokens"] // 2
    done = synthesize(*flags, output, f"--max_tokens={limit}")
    assert done.returncode == 3, done.stderr
    assert f"--max_tokens={limit}: the next request might pass it" in done.stderr
    assert not (tmp_path / "stopped" / "manifest.json").exists()
    done = synthesize(*flags, output)
    assert done.returncode == 0, done.stderr
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")

    done = synthesize(*flags, output)
    assert "finished already, nothing to do; the first error: the prompt has" in done.stderr
    assert done.stderr.endswith("; --retry_errors asks again for what failed\n")
    done = synthesize(*flags, output, "--retry_errors")  # rows that never fit: they fail again
    assert done.returncode == 0 and "nothing to do" not in done.stderr, done.stderr
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")


def test_mistakes_are_one_line(tmp_path):
    output = f"--output={tmp_path / 'out'}"
    assert "--checkpoint is missing" in error(output)
    assert "--checkpoint is missing" in error(output, "--engine=vllm")
    assert "--workers needs --ray" in error(output, "--workers=2")
    assert "config.synthesis.prompt, which is no text with {text} in it" in error(
        output, "--config.synthesis.prompt=prompts/none.txt"
    )
    assert "lies in the input folder" in error(
        f"--input={tmp_path}", f"--output={tmp_path / 'out'}"
    )
    assert "--output is missing" in error("--output=")
    assert "--max_cost is no limit where nothing has a price" in error(output, "--max_cost=5")
    assert "--max_cost is no limit" in error(output, "--engine=api", "--max_cost=5")
    assert "--max_tokens" in error(output, "--max_tokens=-1")
    assert "per_document=2 at temperature 0" in error(
        output, "--config.synthesis.per_document=2", "--config.synthesis.temperature=0"
    )
    (tmp_path / "prompt.txt").write_text("of nothing")
    (tmp_path / "image.txt").write_bytes(b"\x89PNG")
    assert "no {text} in it" in error(output, f"--config.synthesis.prompt={tmp_path}/prompt.txt")
    assert "not valid UTF-8" in error(output, f"--config.synthesis.prompt={tmp_path}/image.txt")
    assert "holds files of the input" in error(
        f"--input={tmp_path}/prompt*", f"--output={tmp_path}", "--checkpoint=any"
    )
    assert not (tmp_path / "out").exists()
