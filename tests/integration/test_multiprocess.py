"""Training by two real processes of four devices: the same numbers as one process of eight."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sbp_jax.convert import to_hf

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

STEPS = 40


@pytest.fixture(scope="module")
def one(trainer):
    return replace(trainer, devices=8)


@pytest.fixture(scope="module")
def two(trainer):
    return replace(trainer, devices=4, processes=2)


@pytest.fixture(scope="module")
def of_one(one, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("one") / "run"
    one.train(workdir)
    return workdir


@pytest.fixture(scope="module")
def of_two(two, tmp_path_factory) -> Path:
    """Makes its own data, so that the second process has to wait for the first."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    two.train(workdir)
    return workdir


def assert_same_losses(result, workdir: Path, expected: Path) -> None:
    lines, others = result(workdir)[0], result(expected)[0]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for line, other in zip(lines, others, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], abs=1e-5), line
        assert ("eval_loss" in line) == ("eval_loss" in other)
        if "eval_loss" in line:
            assert line["eval_loss"] == pytest.approx(other["eval_loss"], abs=1e-5)


def test_two_processes_train_the_same_losses_as_one_on_the_same_data(of_one, of_two, result):
    assert_same_losses(result, of_two, of_one)
    for workdir in (of_one, of_two):
        assert json.loads((workdir / "summary.json").read_text())["steps"] == STEPS


def test_kills_of_one_process_and_of_all_end_in_the_same_bits(
    two, of_two, tmp_path, reached, assert_same_bits
):
    workdir, dice = tmp_path / "run", random.Random(1)
    flag = f"--config.data.input={of_two / 'data' / 'train'}"

    with two.start(workdir, flag) as running:
        running.wait_for(reached(workdir, dice.randrange(8, 18)))
        time.sleep(dice.uniform(0, 0.1))
        os.kill(dice.choice(running.trainers()), signal.SIGKILL)
        start = time.monotonic()
        finished = running.finish()
    assert finished.code not in (0, 2)
    assert time.monotonic() - start < 30
    assert re.search(r"process \d failed with exit code 137", finished.err)

    with two.start(workdir, flag) as running:
        running.wait_for(reached(workdir, dice.randrange(22, 34)))
        for pid in [running.process.pid, *running.trainers()]:
            os.kill(pid, signal.SIGKILL)
        running.finish()

    two.train(workdir, flag)
    assert_same_bits(workdir, of_two)


@contextmanager
def stopped(trainer, workdir: Path, moment: Callable[[], bool], *flags: str) -> Iterator[str]:
    """A run that was asked by SIGTERM to stop; gives its output."""
    with trainer.start(workdir, *flags) as running:
        running.wait_for(moment)
        running.process.send_signal(signal.SIGTERM)
        finished = running.finish()
    assert finished.code == 0, finished.err + finished.out
    yield finished.out + finished.err


def test_sigterm_makes_both_save_one_step_and_one_process_goes_on_from_there(
    one, two, of_one, of_two, tmp_path, reached, result
):
    workdir = tmp_path / "run"
    flag = f"--config.data.input={of_two / 'data' / 'train'}"
    with stopped(two, workdir, reached(workdir, 15), flag) as output:
        said = re.findall(
            r"\[(\d)\] stopped after step (\d+) of 40; resume with the same command", output
        )
    assert sorted(process for process, _ in said) == ["0", "1"]
    (step,) = {step for _, step in said}
    assert (workdir / "checkpoints" / step).exists()
    resumed = one.train(workdir, flag)
    assert f"resuming after step {step} of 40" in resumed.err
    assert_same_losses(result, workdir, of_one)


def test_two_processes_go_on_from_what_one_began(one, two, of_one, tmp_path, reached, result):
    workdir = tmp_path / "run"
    flag = f"--config.data.input={of_one / 'data' / 'train'}"
    with stopped(one, workdir, reached(workdir, 15), flag) as output:
        step = re.search(r"stopped after step (\d+) of 40", output)
    assert step
    resumed = two.train(workdir, flag)
    assert f"resuming after step {step[1]} of 40" in resumed.out
    assert_same_losses(result, workdir, of_one)


def test_two_processes_begin_with_a_hugging_face_folder(one, two, of_one, tmp_path, result):
    to_hf(str(of_one), str(tmp_path / "hf"))
    data = of_one / "data" / "train"
    flags = (
        f"--init_from={tmp_path / 'hf'}",
        f"--config.data.input={data}",
        f"--config.data.tokenizer={data / 'tokenizer'}",  # that of its ids: SentencePiece's
    )
    one.train(tmp_path / "one", *flags)
    two.train(tmp_path / "two", *flags)
    assert_same_losses(result, tmp_path / "two", tmp_path / "one")
    assert result(tmp_path / "one")[0][0]["loss"] < result(of_one)[0][0]["loss"] - 1


def test_damage_that_one_process_alone_meets_sends_both_to_the_checkpoint_before(
    two, of_two, tmp_path, reached, result
):
    workdir = tmp_path / "run"
    flag = f"--config.data.input={of_two / 'data' / 'train'}"
    with stopped(two, workdir, reached(workdir, 15), flag) as output:
        stop = re.search(r"stopped after step (\d+) of 40", output)
    assert stop
    # What the second process wrote of the parameters is what it reads again, and nobody else does.
    damaged = list((workdir / "checkpoints" / stop[1] / "params").glob("ocdbt.process_1/d/*"))
    assert damaged
    for path in damaged:
        path.write_bytes(bytes(byte ^ 0xFF for byte in path.read_bytes()))
    before = max(
        int(name)
        for name in os.listdir(workdir / "checkpoints")
        if name.isdigit() and name != stop[1]
    )
    resumed = two.train(workdir, flag)
    where = re.escape(str(workdir / "checkpoints" / stop[1]))
    said = re.findall(rf"^\[(\d)\] checkpoint {where} is damaged \((.*)\)", resumed.out, re.M)
    assert dict(said).keys() == {"0", "1"}
    assert dict(said)["0"] == "another process cannot read its part"
    assert f"resuming after step {before} of 40" in resumed.out
    assert_same_losses(result, workdir, of_two)


def test_a_mistake_in_a_run_of_two_is_one_line_of_each_and_exit_code_2(two, of_two, tmp_path):
    flags = (f"--config.data.input={of_two / 'data' / 'train'}", "--config.model.vocab_size=640")
    finished = two.run(tmp_path / "run", *flags)
    assert finished.code == 2, finished.out + finished.err
    errors = re.findall(r"^\[\d\] error: .*320 ids", finished.out, re.M)
    assert 1 <= len(errors) <= 2
    assert "Traceback" not in finished.out


# What starts jax.distributed.

JOIN = """
import jax
from sbp_jax.parallel import start_processes
start_processes()
print(jax.process_index(), "of", jax.process_count(), "with", jax.device_count(), "devices")
"""


def slurm(index: int, port: int) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": str(port - 61440),  # JAX derives the coordinator's port from it
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
        "SLURM_STEP_NUM_NODES": "1",
    }


def open_mpi(index: int, port: int) -> dict[str, str]:
    return {
        "OMPI_MCA_orte_hnp_uri": f"{(port - 61440) * 4096}.0;tcp://127.0.0.1:1",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(index),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(index),
    }


def free_port() -> int:
    """One of the 4,096 ports that JAX may choose for a cluster's coordinator."""
    for port in random.sample(range(61440, 65536), 50):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no free port")


@pytest.mark.parametrize("cluster", [slurm, open_mpi], ids=["Slurm", "Open MPI"])
def test_processes_that_a_cluster_starts_find_each_other(cluster):
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN],
            env={
                **os.environ,
                "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
                **cluster(index, port),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        said = [process.communicate(timeout=600)[0].splitlines()[-1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert said == [f"{index} of 2 with 4 devices" for index in range(2)]
