"""How a program starts: with huge pages, and with what a start before it compiled."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def test_a_program_asks_for_huge_pages_where_they_are_on_request_and_stays_the_same_process():
    on_request = THP.exists() and "[madvise]" in THP.read_text()
    program = """
import os, sys
from sbp_jax import cli
cli.use_huge_pages()
print(os.getpid(), os.environ["GLIBC_TUNABLES"], sys.flags.utf8_mode, *sys.argv[1:])
"""
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.arena_test=4"}
    command = [sys.executable, "-X", "utf8", "-c", program, "--flag=a b"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    printed = process.communicate()[0]
    tunables = "glibc.malloc.arena_test=4" + ":glibc.malloc.hugetlb=1" * on_request
    assert printed == f"{process.pid} {tunables} 1 --flag=a b\n"


@pytest.mark.slow
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
