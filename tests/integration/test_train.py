"""`python -m sbp_jax.train` as a person meets it: kills, signals, own text, mistakes, full disks.

Each run is a process of its own; what it compiles, it finds in a cache that all tests share.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sbp_jax.data.pack import write_pairs
from sbp_jax.data.tokenizer import load_tokenizer

pytestmark = pytest.mark.slow

STEPS = 40


@pytest.fixture(scope="module")
def base(trainer, tmp_path_factory) -> tuple[Path, object]:
    """A run that nobody interrupts, and what it printed."""
    workdir = tmp_path_factory.mktemp("base") / "run"
    flags = ("--config.train.samples=2", "--config.train.tensorboard=True")
    return workdir, trainer.train(workdir, *flags)


@pytest.fixture(scope="module")
def store(base) -> Path:
    """Its tokens, so that other runs need not make them."""
    return base[0] / "data" / "train"


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


# What a finished run leaves and says.


def test_the_loss_falls_and_the_files_tell_it(base):
    workdir, _ = base
    lines = metrics(workdir)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    fields = {"step", "tokens", "loss", "grad_norm", "lr", "tokens_per_s", "mfu", "skipped"}
    assert all(fields <= set(line) for line in lines)
    assert [line["step"] for line in lines if "eval_loss" in line] == [20, 40]
    assert lines[-1]["tokens"] == STEPS * 8 * 64
    assert lines[-1]["loss"] < lines[0]["loss"] - 1.5

    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["final_loss"] == lines[-1]["loss"]
    assert [e["loss"] for e in summary["eval_losses"]] == [
        line["eval_loss"] for line in lines if "eval_loss" in line
    ]
    assert summary["tokens"] == STEPS * 8 * 64
    assert summary["model_flops"] > 0 and summary["wall_s"] > 0 and 0 < summary["goodput"] < 1
    assert json.loads((workdir / "config.json").read_text())["train"]["batch_size"] == 8
    assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))


def test_a_person_sees_the_plan_then_one_line_a_step_then_samples(base):
    _, printed = base
    for beginning in ("model ", "devices ", "budget ", "data "):
        assert any(line.startswith(beginning) for line in printed.err.splitlines()), beginning
    step = r"step +\d+/40  loss \d+\.\d{4}  [\d,]+ tokens/s  MFU \d+\.\d%  ETA \d+:\d\d:\d\d"
    assert len(re.findall(f"^{step}", printed.err, re.M)) == STEPS
    assert "--- sample 1\n" in printed.out and "--- sample 2\n" in printed.out
    assert "done in " in printed.err and "summary.json are in " in printed.err


def test_a_finished_run_is_left_as_it_is(base, trainer):
    workdir, _ = base
    before = snapshot(workdir)
    flags = ("--config.train.samples=2", "--config.train.tensorboard=True")
    again = trainer.train(workdir, *flags)
    assert "this run is finished; nothing to do" in again.err
    assert snapshot(workdir) == before


# Kills and signals.


def in_checkpoints(workdir: Path, word: str) -> Callable[[], bool]:
    def seen() -> bool:
        folder = workdir / "checkpoints"
        return folder.exists() and any(word in name for name in os.listdir(folder))

    return seen


def kill(trainer, workdir: Path, moment: Callable[[], bool], delay: float, *flags: str) -> None:
    with trainer.start(workdir, *flags) as running:
        running.wait_for(moment)
        time.sleep(delay)
        running.process.kill()
        assert running.finish().code == -signal.SIGKILL


def test_a_run_killed_at_every_stage_ends_in_the_same_bits(
    base, trainer, tmp_path, reached, assert_same_bits
):
    workdir = tmp_path / "run"
    data = workdir / "data" / "train"
    saving = in_checkpoints(workdir, "tmp")
    kill(trainer, workdir, data.exists, 0)  # learning the tokenizer
    kill(trainer, workdir, (data / "pieces").exists, 0)  # tokenizing
    kill(trainer, workdir, (data / "manifest.json").exists, 0.5)  # compiling
    kill(trainer, workdir, saving, 0)  # the first checkpoint
    kill(trainer, workdir, reached(workdir, 18), 0)  # between two checkpoints
    kill(trainer, workdir, lambda: reached(workdir, 20)() and saving(), 0)  # a later checkpoint
    kill(trainer, workdir, reached(workdir, STEPS), 0)  # the last step's metrics are out
    trainer.train(workdir)
    assert_same_bits(workdir, base[0])
    assert not saving()


def test_a_run_killed_at_random_moments_ends_in_the_same_bits(
    base, store, trainer, tmp_path, reached, assert_same_bits
):
    workdir, dice = tmp_path / "run", random.Random(0)
    flag = f"--config.data.input={store}"
    for step in sorted(dice.sample(range(1, STEPS), 3)):
        kill(trainer, workdir, reached(workdir, step), dice.uniform(0, 0.05), flag)
    trainer.train(workdir, flag)
    assert_same_bits(workdir, base[0])


def test_sigterm_and_ctrl_c_save_and_the_same_command_goes_on_to_the_same_bits(
    base, store, trainer, tmp_path, reached, assert_same_bits
):
    workdir, flag = tmp_path / "run", f"--config.data.input={store}"
    step = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        with trainer.start(workdir, flag) as running:
            running.wait_for(reached(workdir, step + 8))
            running.process.send_signal(number)
            finished = running.finish()
        assert finished.code == 0, finished.err
        stopped = re.search(r"stopped after step (\d+) of 40; resume with the same", finished.err)
        assert stopped, finished.err
        step = int(stopped[1])
        assert metrics(workdir)[-1]["step"] == step
        assert (workdir / "checkpoints" / str(step)).exists()
        assert not (workdir / "summary.json").exists()
    resumed = trainer.train(workdir, flag)
    assert f"resuming after step {step} of 40" in resumed.err
    assert_same_bits(workdir, base[0])


def test_a_second_run_in_a_workdir_is_refused_while_the_first_goes_on(
    base, store, trainer, tmp_path, reached, assert_same_bits
):
    workdir, flag = tmp_path / "run", f"--config.data.input={store}"
    with trainer.start(workdir, flag) as first:
        first.wait_for(reached(workdir, 1))
        first.process.send_signal(signal.SIGSTOP)  # or it is done before the second one begins
        before = snapshot(workdir)
        error = trainer.run(workdir, flag).error
        assert f"{workdir}: another process is training there" in error
        assert snapshot(workdir) == before
        seen = len(metrics(workdir))
        first.process.send_signal(signal.SIGCONT)
        first.wait_for(reached(workdir, seen + 3))
        first.process.kill()
    trainer.train(workdir, flag)  # a lock does not outlive its process
    assert_same_bits(workdir, base[0])


def test_a_second_ctrl_c_ends_at_once(store, trainer, tmp_path, reached):
    batch = 2048  # a step takes a second, and the first Ctrl-C would let it come to its end
    flags = [
        f"--config.data.input={store}",
        f"--config.train.batch_size={batch}",
        f"--config.train.tokens={20 * batch * 64}",
    ]
    with trainer.start(tmp_path / "run", *flags) as running:
        running.wait_for(reached(tmp_path / "run", 1))
        running.process.send_signal(signal.SIGINT)
        running.wait_for(running.says("saving after this step"))
        running.process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert running.finish().code == 128 + signal.SIGINT  # not 0, after a checkpoint
        assert time.monotonic() - start < 5
        assert "Traceback" not in running.err.read_text()


# Other weights, other configs, other data.


def test_a_changed_config_is_refused_by_field_unless_allowed(
    store, trainer, tmp_path, reached, result
):
    workdir, flag = tmp_path / "run", f"--config.data.input={store}"
    kill(trainer, workdir, reached(workdir, 15), 0, flag)
    before = snapshot(workdir)
    changed = (flag, "--config.optimizer.peak_lr=0.002")
    error = trainer.run(workdir, *changed).error
    assert "config.optimizer.peak_lr: 0.003 -> 0.002" in error
    assert "--allow_config_change" in error
    assert snapshot(workdir) == before

    allowed = trainer.train(workdir, *changed, "--allow_config_change")
    assert "config changed: config.optimizer.peak_lr: 0.003 -> 0.002" in allowed.err
    assert "resuming after step" in allowed.err
    assert json.loads((workdir / "config.json").read_text())["optimizer"]["peak_lr"] == 0.002
    assert len(result(workdir)[0]) == STEPS


def test_init_from_begins_with_the_weights_of_another_run(base, store, trainer, tmp_path):
    flags = (f"--config.data.input={store}", f"--init_from={base[0]}")
    short = f"--config.train.tokens={3 * 8 * 64}"
    finished = trainer.train(tmp_path / "run", *flags, short, "--config.optimizer.warmup=1 steps")
    assert f"weights from {base[0]}, step {STEPS}" in finished.err
    old = metrics(base[0])
    assert abs(metrics(tmp_path / "run")[0]["loss"] - old[-1]["loss"]) < 0.3
    assert old[0]["loss"] - old[-1]["loss"] > 1.5


def words(seed: int, number: int) -> str:
    dice = random.Random(seed)
    parts = ("the", "of", "river", "stone", "bridge", "élan", "walks", "under", "green", "birds")
    return " ".join(dice.choice(parts) for _ in range(number))


def test_own_text_trains_tokenizer_and_model_and_prints_samples(trainer, tmp_path):
    texts = tmp_path / "my_texts"
    (texts / "deeper").mkdir(parents=True)
    for i in range(30):
        (texts / "deeper" / f"{i}.txt").write_text(words(i, 300) + ".\n")
    rows = [json.dumps({"text": words(100 + i, 300)}) for i in range(30)]
    (texts / "more.jsonl").write_text("\n".join(rows) + "\n")
    finished = trainer.train(
        tmp_path / "run",
        f"--config.data.input={texts}",
        "--config.model.vocab_size=290",
        "--config.train.samples=1",
        f"--config.train.tokens={10 * 8 * 64}",
    )
    assert "--- sample 1\n" in finished.out
    lines = metrics(tmp_path / "run")
    assert lines[-1]["loss"] < lines[0]["loss"]
    manifest = json.loads((tmp_path / "run" / "data" / "train" / "manifest.json").read_text())
    assert manifest["documents"] == 60
    text = words(1, 20)
    tokenizer = load_tokenizer(str(tmp_path / "run" / "tokenizer"))
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text


def test_a_mixture_in_a_config_file_keeps_its_weights_and_its_passes(
    base, store, trainer, tmp_path
):
    config = tmp_path / "mixture.py"
    config.write_text(
        trainer.config.read_text().replace(
            "    return config",
            f"    config.data.tokenizer = {str(base[0] / 'tokenizer')!r}\n"
            "    config.data.mixture = {\n"
            f"        'old': {{'input': {str(store)!r}, 'weight': 3.0, 'max_passes': 1.0}},\n"
            "        'new': {'input': 'toyworld:fresh', 'weight': 1.0},\n"
            "    }\n"
            "    config.toyworld.fresh_documents = 100\n"
            f"    config.train.tokens = {10 * 8 * 64}\n"
            "    return config",
        )
    )
    mixed = replace(trainer, config=config)
    finished = mixed.train(tmp_path / "run")
    said = re.findall(r"^data +(\w+): ([\d,]+) windows.* ([\d.]+) passes$", finished.err, re.M)
    windows = {name: int(number.replace(",", "")) for name, number, _ in said}
    passes = {name: float(number) for name, _, number in said}
    assert passes["old"] == pytest.approx(60 / windows["old"], abs=0.006)
    assert passes["new"] == pytest.approx(20 / windows["new"], abs=0.006)

    config.write_text(config.read_text().replace("'max_passes': 1.0", "'max_passes': 0.01"))
    error = mixed.run(tmp_path / "refused").error
    assert "'old'" in error and "max_passes=0.01" in error


def test_a_pair_store_trains_on_its_targets_alone(base, trainer, tmp_path):
    tokenizer = load_tokenizer(str(base[0] / "tokenizer"))
    dice = np.random.default_rng(0)
    # Nobody can predict the contexts, anybody the targets: counted together they stay above 3 nats.
    examples = [(dice.integers(10, 300, 20).tolist(), [7] * 12) for _ in range(600)]
    pairs = tmp_path / "pairs"
    write_pairs(
        examples, pairs, tokenizer=tokenizer, row_length=65, name="pairs", fingerprint="of this"
    )
    trainer.train(
        tmp_path / "run",
        f"--config.data.input={pairs}",
        f"--config.eval.input={pairs}",
        f"--config.data.tokenizer={base[0] / 'tokenizer'}",
        "--config.optimizer.peak_lr=0.02",
    )
    lines = metrics(tmp_path / "run")
    assert lines[0]["loss"] > 4
    assert lines[-1]["loss"] < 1
    assert lines[-1]["eval_loss"] < 1


# Mistakes: one line, exit code 2, nothing damaged.

ENORMOUS = (
    "--config.model.num_layers=80",
    "--config.model.d_model=10240",
    "--config.model.d_ff=30720",
)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.optimizer.peek_lr=1"], ["'peek_lr'", "'peak_lr'"]),
        (["--workdirr=x"], ["workdirr"]),
        (["--config.model.num_heads=3", "--config.model.num_kv_heads=2"], ["num_heads=3", "=2"]),
        (["--config.train.tokens=20481"], ["tokens=20481", "20480", "20992"]),
        (["--config.mesh.platform=tpu"], ["config.mesh.platform", "'tpu'", "cpu"]),
        (["--config.mesh.fsdp=3"], ["fsdp=3", "number of devices, 1"]),
        (ENORMOUS, ["GiB", "smaller config"]),
        (["--config.data.input=no/such/folder"], ["no/such/folder", "no such file or folder"]),
        (["--init_from=no/such/run"], ["no/such/run", "no checkpoint there"]),
    ],
    ids=lambda value: value[0] if value[0].startswith("--") else "",
)
def test_a_wrong_flag_is_refused_in_one_line(store, trainer, tmp_path, flags, words):
    workdir = tmp_path / "run"
    error = trainer.run(workdir, f"--config.data.input={store}", *flags).error
    assert all(word in error for word in words), error
    assert not (workdir / "metrics.jsonl").exists()
    assert not (workdir / "checkpoints").exists() or not os.listdir(workdir / "checkpoints")


def test_a_config_file_that_is_not_there_is_named(trainer, tmp_path):
    wrong = replace(trainer, config=Path("no/such/file.py"))
    assert "no/such/file.py" in wrong.run(tmp_path / "run").error


def test_a_batch_that_the_mesh_does_not_divide_is_refused(store, trainer, tmp_path):
    eight = replace(trainer, devices=8)
    flags = (f"--config.data.input={store}", "--config.train.batch_size=4")
    error = eight.run(tmp_path / "run", *flags).error
    assert "config.train.batch_size=4" in error and "= 8 devices" in error


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"part-00000.parquet": b"PAR1"}, ["manifest.json", "*.parquet"]),
        ({"a.txt": b"good text\n", "b.txt": b""}, ["b.txt", "empty"]),
        ({"a.txt": b"fine\nalso fine\nnot \xff fine\n"}, ["a.txt:3", "not valid UTF-8"]),
        ({"a.jsonl": b'{"text": "fine"}\n{"text": '}, ["a.jsonl:2", "not valid JSON"]),
    ],
    ids=["parquet without manifest", "empty file", "invalid UTF-8", "torn JSON"],
)
def test_bad_text_is_refused_by_file_and_line(trainer, tmp_path, files, words):
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, content in files.items():
        (texts / name).write_bytes(content)
    before = snapshot(texts)
    error = trainer.run(tmp_path / "run", f"--config.data.input={texts}").error
    assert all(word in error for word in words), error
    assert snapshot(texts) == before
    assert not (tmp_path / "run" / "data" / "train" / "manifest.json").exists()


@pytest.mark.parametrize("vocab", [640, 256], ids=["too few ids", "too many ids"])
def test_a_tokenizer_of_another_size_is_refused(store, trainer, tmp_path, vocab):
    flags = (f"--config.data.input={store}", f"--config.model.vocab_size={vocab}")
    error = trainer.run(tmp_path / "run", *flags).error
    assert "320 ids" in error and f"config.model.vocab_size={vocab}" in error


def test_a_checkpoint_of_another_architecture_is_refused_by_field(base, store, trainer, tmp_path):
    flags = (f"--config.data.input={store}", f"--init_from={base[0]}", "--config.model.d_ff=96")
    error = trainer.run(tmp_path / "run", *flags).error
    assert "another architecture" in error, error
    assert re.search(r"--config\.model\.d_ff=\d+ \(not 96\)", error), error


def test_a_flipped_byte_in_a_token_store_is_found_and_the_store_named(store, trainer, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(store, damaged)
    tape = damaged / "tokens" / "c" / "0"
    content = bytearray(tape.read_bytes())
    content[len(content) // 2] ^= 1
    tape.write_bytes(content)
    error = trainer.run(tmp_path / "run", f"--config.data.input={damaged}").error
    assert str(damaged) in error and "damaged" in error


def test_a_workdir_that_cannot_be_made_is_refused(store, trainer, tmp_path):
    (tmp_path / "file").write_text("mine")
    error = trainer.run(tmp_path / "file" / "run", f"--config.data.input={store}").error
    assert str(tmp_path / "file" / "run") in error
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_whose_gradients_are_never_finite_stops_and_says_why(store, trainer, tmp_path):
    flags = (
        f"--config.data.input={store}",
        "--config.optimizer.peak_lr=1e38",
        "--config.train.max_skipped=3",
    )
    finished = trainer.run(tmp_path / "run", *flags)
    assert "3 gradients in a row were not finite" in finished.error
    assert finished.err.count("the update is skipped") == 3


def test_an_absurd_learning_rate_is_survived_or_stopped_but_never_hidden(store, trainer, tmp_path):
    flags = (f"--config.data.input={store}", "--config.optimizer.peak_lr=1e6")
    finished = trainer.run(tmp_path / "run", *flags, "--config.train.max_skipped=3")
    if finished.code:
        assert "gradients in a row were not finite" in finished.error
    else:
        assert "loss spike" in finished.err


# Full and read-only disks.


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system in memory with some options, or mounts it anew with others."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if os.path.ismount(folder) else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_while_data_are_prepared(disk, base, trainer, assert_same_bits):
    workdir = disk("size=60k") / "run"
    error = trainer.run(workdir).error
    assert "No space left" in error and str(workdir) in error
    assert not (workdir / "data" / "train" / "manifest.json").exists()
    disk("size=50m")
    trainer.train(workdir)
    assert_same_bits(workdir, base[0])


def test_a_disk_that_is_full_when_a_checkpoint_is_saved(
    disk, base, store, trainer, reached, assert_same_bits
):
    """And then one that is full before there is anything to save."""
    workdir = disk("size=50m") / "run"
    flag = f"--config.data.input={store}"
    kill(trainer, workdir, reached(workdir, 15), 0, flag)
    steps = sorted(int(name) for name in os.listdir(workdir / "checkpoints") if name.isdigit())
    assert steps
    before = {step: snapshot(workdir / "checkpoints" / str(step)) for step in steps}
    used = shutil.disk_usage(workdir).used // 1024
    disk(f"size={used + 100}k")  # room for metrics, not for 350 KiB of arrays
    error = trainer.run(workdir, flag).error
    assert str(workdir) in error and "No space left on device" in error, error
    disk(f"size={shutil.disk_usage(workdir).used // 1024}k")
    assert "No space left on device" in trainer.run(workdir, flag).error
    assert {step: snapshot(workdir / "checkpoints" / str(step)) for step in steps} == before
    disk("size=50m")
    trainer.train(workdir, flag)
    assert_same_bits(workdir, base[0])


def test_a_read_only_disk_is_refused(disk, store, trainer):
    workdir = disk("ro") / "run"
    error = trainer.run(workdir, f"--config.data.input={store}").error
    assert str(workdir) in error and "Read-only file system" in error


def test_a_profile_whose_run_was_interrupted_is_resumed_and_finished(trainer, tmp_path, reached):
    """In a process of its own: in one where torch has run as well, JAX's profiler may crash."""
    flags = ("--config.train.profile_steps=2-39", "--config.checkpoint.every_steps=1")
    with trainer.start(tmp_path, *flags) as running:
        running.wait_for(reached(tmp_path, 3))
        running.process.send_signal(signal.SIGTERM)
        assert running.finish().code == 0
    assert len(list(tmp_path.glob("profile/**/*.xplane.pb"))) == 1
    trainer.train(tmp_path, *flags)
    assert len(list(tmp_path.glob("profile/**/*.xplane.pb"))) == 2
