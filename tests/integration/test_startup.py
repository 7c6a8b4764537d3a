"""A restart finds compiled what the first start compiled, and computes the same with it."""

import signal

import pytest

pytestmark = pytest.mark.slow


def test_a_restart_compiles_nothing_anew_and_ends_in_the_same_bits(
    trainer, tmp_path, monkeypatch, reached, assert_same_bits
):
    workdir, uninterrupted = tmp_path / "run", tmp_path / "uninterrupted"
    trainer.train(uninterrupted)  # its programs lie in the cache of all tests
    assert not (uninterrupted / "compiled").exists()

    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # they are small here
    with trainer.start(workdir) as running:
        running.wait_for(reached(workdir, 21))  # past the first evaluation
        running.process.send_signal(signal.SIGTERM)
        assert running.finish().code == 0
    programs = {path.name for path in (workdir / "compiled").iterdir()}
    assert any("eval_step" in name for name in programs), programs
    trainer.train(workdir)
    assert {path.name for path in (workdir / "compiled").iterdir()} == programs
    assert_same_bits(workdir, uninterrupted)
