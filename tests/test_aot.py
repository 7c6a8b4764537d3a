"""The program of every stage, compiled by the real TPU compiler for TPUs that are not here."""

import dataclasses
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from sbp_jax.config import resolve

pytestmark = pytest.mark.aot


def aot(*flags):
    command = [sys.executable, "-m", "sbp_jax.aot", *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_step_that_fits_is_compiled_with_splash_attention_and_measured():
    done = aot(
        "--config=configs/laptop.py",
        "--config.data.sequence_length=128",
        "--topology=v5e:2x2",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["fits"] and report["devices"] == 4 and report["mesh"]["fsdp"] == 4
    assert 0 < report["hbm_gib_per_device"] < report["hbm_limit_gib"] == 15.75
    assert report["collectives"]["all-gather"]["count"] > 0 and report["estimated_step_s"] > 0
    # Nothing is rematerialised; the attention kernel's backward pass does more than the model's
    # mathematics needs, on whole blocks.
    assert 1 < report["flops_per_step"] / report["model_flops_per_step"] < 1.2


def test_a_step_that_does_not_fit_says_what_it_needs():
    done = aot("--config=configs/1t_6b.py", "--config.mesh.fsdp=16", "--topology=v5e:4x4", "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert not report["fits"] and report["hbm_gib_per_device"] > report["hbm_limit_gib"]


def test_a_wrong_topology_is_one_line():
    done = aot("--config=configs/laptop.py", "--topology=v9:4x4")
    assert done.returncode == 2
    assert "v5p:8x8x8" in done.stderr and done.stderr.count("\n") == 1


CONFIGS = Path(__file__).parents[1] / "configs"
# The sampler takes its layers apart, so compiling grows with them (26 at 256 rows: 85 s), and the
# figures of one say as much.
SHALLOW = ("--config.model.num_layers=1", "--config.engine.max_length=512")


def of_stage(scale, stage, *flags):
    done = aot(f"--config={CONFIGS / scale}.py", f"--stage={stage}", "--json", *flags)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(report["fits"] and report["stage"] == stage for report in reports)
    return reports


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["200b_3b", "1t_6b"])
def test_the_tuning_of_a_large_config_fits_and_recomputes_little(scale):
    (report,) = of_stage(scale, "tune", "--topology=v5p:4x4x8")
    assert report["sequences_per_device"] == 4  # a quarter of the pretraining's batch
    assert 1 < report["flops_ratio"] < 1.15


@pytest.mark.slow
def test_the_sampler_of_the_3b_configs_fits_and_does_the_model_flops():
    prefill, decode = of_stage("200b_3b", "synthesize", "--topology=v5p:2x2x1", *SHALLOW)
    assert (prefill["program"], decode["program"]) == ("prefill", "decode")
    assert decode["rows"] == 256 and decode["tokens_per_step"] == 256 * 16
    assert decode["collectives"] == prefill["collectives"] == {}  # each chip has its own rows
    for report in (prefill, decode):
        assert 0.95 < report["flops_ratio"] < 1.1
    # A token drawn reads all weights and keys, which the estimate has to show.
    assert decode["estimated_mfu"] < prefill["estimated_mfu"] < 1


@pytest.mark.slow
def test_the_sampler_of_the_6b_config_fits_and_split_over_chips_sums_its_layers_over_them():
    split = ("--config.engine.tensor=4", "--config.engine.batch_size=8")
    _, decode = of_stage("1t_6b", "synthesize", "--topology=v5p:2x2x1", *SHALLOW, *split)
    assert decode["mesh"]["tensor"] == 4
    # In each of 16 turns, of attention and MLP at least.
    assert decode["collectives"]["all-reduce"]["count"] >= 16 * 2


@pytest.fixture
def embedder(tmp_path):
    """The config of Qwen3-Embedding-0.6B as it is published; its weights are not looked at."""
    fields = dict(
        model_type="qwen3", hidden_size=1024, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, intermediate_size=3072, vocab_size=151_669,
        rope_theta=1e6, rms_norm_eps=1e-6, tie_word_embeddings=True,
    )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(fields))
    return f"--config.pairing.model={tmp_path}"


def test_the_embedder_of_the_large_configs_fits(embedder):
    (report,) = of_stage("1t_6b", "embed", "--topology=v5p:2x2x1", embedder)
    assert report["params"] == 595_776_512 and report["length"] == 2048
    assert 1 < report["flops_ratio"] < 1.15


def test_neighbors_fit_where_the_docs_say_so():
    (report,) = of_stage("200b_3b", "neighbors", "--topology=v5p:2x2x1", "--documents=12000000")
    assert report["dimensions"] == 1024 and 1 <= report["flops_ratio"] < 1.1
    done = aot(
        f"--config={CONFIGS}/1t_6b.py", "--stage=neighbors", "--topology=v5p:2x2x1",
        "--documents=60000000",
    )  # fmt: skip
    assert done.returncode == 1 and "DOES NOT FIT (take more chips)" in done.stdout


def test_the_other_3b_config_has_the_same_programs():
    """So what was compiled for one of them holds for the other."""

    def shapes(scale):
        e = resolve(runpy.run_path(str(CONFIGS / f"{scale}.py"))["get_config"](""))
        tokens = dict(tokens=1, every_steps=1)
        return (
            e.model, e.mesh, e.engine, e.data.sequence_length, e.train.batch_size,
            dataclasses.replace(e.tuning, **tokens), dataclasses.replace(e.pairing, pairs=0),
        )  # fmt: skip

    assert shapes("1t_3b") == shapes("200b_3b")


def test_what_a_stage_needs_and_has_not_is_one_line(tmp_path):
    large, place = f"--config={CONFIGS}/1t_6b.py", "--topology=v5p:2x2x1"
    for stage, more, said in (
        ("neighbors", [], "--documents"),
        ("tune", ["--documents=5"], "--documents"),
        ("embed", [f"--config.pairing.model={tmp_path}"], "config.json"),
    ):
        done = aot(large, place, f"--stage={stage}", *more)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
