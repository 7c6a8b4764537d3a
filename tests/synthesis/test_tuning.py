"""What a synthesizer is tuned on, and how its checkpoint is chosen."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from sbp_jax import files
from sbp_jax.config import (
    DataConfig,
    EvalConfig,
    Experiment,
    ModelConfig,
    SynthesisConfig,
    TrainConfig,
    TuningConfig,
)
from sbp_jax.data.loader import Windows
from sbp_jax.data.split import is_validation
from sbp_jax.data.tokenizer import load_tokenizer, train_tokenizer
from sbp_jax.data.tokens import TokenStore
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import prompt_ids
from sbp_jax.synthesis import examples as pair_examples
from sbp_jax.synthesis import tuning
from sbp_jax.train import train
from sbp_jax.training.checkpoint import run_config

LENGTH = 64
NAMES = [f"{a}{b}" for a in ("mar", "tol", "ven", "sib") for b in ("a", "o", "in", "us")]
EXPERIMENT = Experiment(
    model=ModelConfig(
        num_layers=2, d_model=32, num_heads=2, num_kv_heads=1, head_dim=16, d_ff=64, vocab_size=320
    ),
    data=DataConfig(sequence_length=LENGTH, held_out=0.2),
    train=TrainConfig(tokens=20 * 8 * LENGTH, batch_size=8, samples=0, tensorboard=False),
    eval=EvalConfig(every_steps=10),
    tuning=TuningConfig(tokens=60 * 8 * LENGTH, batch_size=8, every_steps=20, peak_lr=1e-2),
    synthesis=SynthesisConfig(prompt="{text}\n"),
)


def text(name, number):
    return f"{name} lives at number {number}."


TEXTS = [text(name, i) for name in NAMES for i in range(40)]


def with_tuning(experiment=EXPERIMENT, **changes):
    return dataclasses.replace(experiment, tuning=dataclasses.replace(experiment.tuning, **changes))


def write(folder, rows):
    """A folder of pairs, as sbp_jax.pair leaves it."""
    path = folder / "part-00000.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    shard = {"name": path.name, "rows": len(rows), "bytes": path.stat().st_size}
    digest = files.sha256(path.read_bytes())
    files.write_manifest(folder, {"kind": "pairs", "shards": [shard], "sha256": digest})
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Two texts each about the same person."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [
        {"d1": text(name, 3 * i), "d2": text(name, 3 * i + 1), "score": 1.0, "id1": f"{name}/{i}",
         "id2": f"{name}/{i}b"}
        for name in NAMES
        for i in range(12)
    ]  # fmt: skip
    return write(folder, rows)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 320, folder)
    return load_tokenizer(str(folder))


@pytest.fixture(scope="module")
def baseline(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("baseline")
    tokenizer.save(folder / "tokenizer")
    (folder / "texts").mkdir()
    lines = [json.dumps({"text": text}) for text in TEXTS]
    (folder / "texts" / "all.jsonl").write_text("\n".join(lines))
    data = dataclasses.replace(
        EXPERIMENT.data, input=str(folder / "texts"), tokenizer=str(folder / "tokenizer")
    )
    train(dataclasses.replace(EXPERIMENT, data=data), folder / "run")
    return folder / "run"


def examples(store, tokenizer):
    """The contexts and targets that the loss sees, as texts."""
    windows = Windows(TokenStore(epath.Path(store)), "all", LENGTH, True)
    found = []
    for row in range(len(windows)):
        batch = {name: value[0] for name, value in windows.read(np.array([row])).items()}
        for segment in np.unique(batch["segments"]):
            places = batch["segments"] == segment
            counted = places & (batch["weights"] > 0)
            if counted.any():
                first = np.flatnonzero(counted)[0]
                context = batch["inputs"][np.flatnonzero(places)[0] : first + 1].tolist()
                found.append((context, batch["targets"][counted].tolist()))
    return found


def test_an_example_is_what_synthesis_asks_and_its_answer(pairs, tokenizer, tmp_path):
    stores = pair_examples.write_stores(EXPERIMENT, pairs, tokenizer, epath.Path(tmp_path))
    wanted = set()
    for pair in pair_examples.read_pairs(pairs):
        if is_validation(pair.id1, EXPERIMENT):
            continue  # the sample of held-out pairs has room for all
        context = prompt_ids(tokenizer, f"{pair.d1}\n")
        wanted.add((tuple(context), (*tokenizer.encode([pair.d2])[0], tokenizer.eos_id)))
    found = [
        (tuple(context), tuple(target))
        for name in ("train", "held_out")
        for context, target in examples(stores[name], tokenizer)
    ]
    assert 100 < len(found) == len(wanted) < 16 * 12 and set(found) == wanted


def test_held_out_are_d2s_that_no_training_has_seen_and_shuffled_ones_have_other_d1s(
    pairs, tokenizer, tmp_path
):
    stores = pair_examples.write_stores(EXPERIMENT, pairs, tokenizer, epath.Path(tmp_path))
    kept, held_out, shuffled = (
        {tuple(map(tuple, example)) for example in examples(stores[name], tokenizer)}
        for name in ("train", "held_out", "shuffled")
    )
    seen = {
        tuple(tokenizer.encode([text])[0])
        for pair in pair_examples.read_pairs(pairs)
        for name, text in ((pair.id1, pair.d1), (pair.id2, pair.d2))
        if not is_validation(name, EXPERIMENT)
    }
    assert {target[:-1] for _, target in kept} <= seen
    assert not {target[:-1] for _, target in held_out} & seen
    assert 10 < len(held_out) < 80
    assert sorted(target for _, target in held_out) == sorted(target for _, target in shuffled)
    assert not held_out & shuffled


def test_long_pairs_are_left_out_or_lose_the_beginning_of_d1(tokenizer, tmp_path):
    ids = [f"{i}" for i in range(100) if not is_validation(f"{i}", EXPERIMENT)]
    unseen = [f"{i}" for i in range(100) if is_validation(f"{i}", EXPERIMENT)]
    rows = [{"d1": text("mara", 1) * 20, "d2": text("mara", 2), "id1": ids[0], "id2": ids[1]}]
    rows += [
        {"d1": text("tolo", i), "d2": text("tolo", i + 1), "id1": ids[i], "id2": id2}
        for i, id2 in enumerate(ids[1:31] + unseen[:10])
    ]
    write(tmp_path, rows)
    counts = {}
    for truncate in (False, True):
        folder = epath.Path(tmp_path / f"{truncate}")
        experiment = with_tuning(truncate=truncate)
        stores = pair_examples.write_stores(experiment, tmp_path, tokenizer, folder)
        counts[truncate] = [
            pair_examples.read_count(stores[name]) for name in ("train", "held_out")
        ]
    assert sum(count["left_out"] for count in counts[False]) == 1
    assert sum(count["left_out"] for count in counts[True]) == 0
    assert sum(count["examples"] for count in counts[True]) == 41
    # What is left is what synthesis asks of the end of d1: BOS and the prompt are whole.
    cut = max((x for x, _ in examples(stores["train"], tokenizer)), key=len)
    asked = tokenizer.decode(cut)
    assert asked.endswith("number 1.\n") and rows[0]["d1"].endswith(asked[:-1])
    assert cut == prompt_ids(tokenizer, asked) and len(cut) > LENGTH - 30


def test_held_out_pairs_are_a_sample_that_more_pairs_of_the_same_corpus_do_not_shift(
    pairs, tokenizer, tmp_path
):
    few = dataclasses.replace(EXPERIMENT, eval=EvalConfig(max_sequences=8))
    stores = pair_examples.write_stores(few, pairs, tokenizer, epath.Path(tmp_path / "few"))
    sample = {tuple(target) for _, target in examples(stores["held_out"], tokenizer)}
    assert pair_examples.read_count(stores["held_out"])["examples"] == 8
    rows = [
        {"d1": p.d1, "d2": p.d2, "id1": p.id1, "id2": p.id2}
        for p in reversed(list(pair_examples.read_pairs(pairs)))
    ]
    (tmp_path / "reversed").mkdir()
    folder = write(tmp_path / "reversed", rows)
    stores = pair_examples.write_stores(few, folder, tokenizer, epath.Path(tmp_path / "again"))
    assert {tuple(t) for _, t in examples(stores["held_out"], tokenizer)} == sample


@pytest.mark.parametrize("truncate", [False, True])
def test_both_losses_are_of_the_same_d2s_though_lengths_differ(tokenizer, tmp_path, truncate):
    """Another d1 that is too long for a d2 loses its beginning, whatever the config says."""
    unseen = [f"{i}" for i in range(300) if is_validation(f"{i}", EXPERIMENT)]
    ids = [f"{i}" for i in range(300) if not is_validation(f"{i}", EXPERIMENT)]
    rows = [
        {"d1": text("mara", i) * (i % 6 + 1), "d2": text("tolo", i) * (6 - i % 6), "id1": ids[i],
         "id2": unseen[i]}
        for i in range(30)
    ] + [{"d1": "mara", "d2": "tolo", "id1": ids[40], "id2": ids[41]}]  # fmt: skip
    experiment = with_tuning(truncate=truncate)
    folder = epath.Path(tmp_path / "stores")
    stores = pair_examples.write_stores(experiment, write(tmp_path, rows), tokenizer, folder)
    held_out, shuffled = (examples(stores[name], tokenizer) for name in ("held_out", "shuffled"))
    assert sorted(t for _, t in held_out) == sorted(t for _, t in shuffled) and len(held_out) > 10
    assert pair_examples.read_count(stores["shuffled"])["left_out"] == 0


@pytest.mark.slow
def test_the_checkpoint_with_the_lowest_held_out_loss_is_the_synthesizer(pairs, baseline, tmp_path):
    found = tuning.tune(EXPERIMENT, pairs, str(baseline), tmp_path / "tuned")
    losses = {each["step"]: each["loss"] for each in found["losses"]}
    assert sorted(losses) == [20, 40, 60] and found["pair_loss"] == min(losses.values())
    assert found["checkpoint"].endswith(f"checkpoints/{found['step']}")
    assert epath.Path(found["checkpoint"]).exists()
    # d2 is about who d1 is about: another d1 is worse, and ever more so.
    assert found["shuffled_pair_loss"] > found["pair_loss"] + 0.05
    gaps = [each["shuffled_loss"] - each["loss"] for each in found["losses"]]
    assert gaps[-1] > gaps[0]
    assert tuning.tune(EXPERIMENT, pairs, str(baseline), tmp_path / "tuned") == found


@pytest.mark.slow
def test_the_first_of_the_best_is_chosen_whichever_comes_last(pairs, baseline, tmp_path):
    """At a rate of next to nothing all checkpoints are the same; at a mad one the last is worse."""
    still = with_tuning(peak_lr=1e-30, final_lr=0.0)
    found = tuning.tune(still, pairs, str(baseline), tmp_path / "still")
    assert len({each["loss"] for each in found["losses"]}) == 1 and found["step"] == 20
    wild = with_tuning(peak_lr=0.5, final_lr=0.5, warmup="50 steps")
    found = tuning.tune(wild, pairs, str(baseline), tmp_path / "wild")
    assert found["step"] < 60 and epath.Path(found["checkpoint"]).exists()


@pytest.mark.slow
def test_from_scratch_begins_with_random_weights_and_the_same_tokens(pairs, baseline, tmp_path):
    short = with_tuning(tokens=10 * 8 * LENGTH, every_steps=10)
    short = dataclasses.replace(short, train=dataclasses.replace(short.train, log_every=1))
    tuned = tuning.tune(short, pairs, str(baseline), tmp_path / "tuned")
    blank = with_tuning(short, from_scratch=True)
    scratch = tuning.tune(blank, pairs, str(baseline), tmp_path / "scratch")
    assert run_config(scratch["checkpoint"]).init_from == ""
    assert tuned["examples"] == scratch["examples"]
    assert scratch["pair_loss"] > tuned["pair_loss"]
    first, blank_first = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        for name in ("tuned", "scratch")
    )
    assert blank_first > 5 > first + 1  # of 320 ids one is guessed at 5.8


@pytest.mark.slow  # for its checkpoint
def test_what_cannot_become_a_synthesizer_is_refused_before_any_work(pairs, baseline, tmp_path):
    def refused(match, experiment=EXPERIMENT, pairs=pairs):
        with pytest.raises(UserError, match=match):
            tuning.tune(experiment, pairs, str(baseline), tmp_path / "tuned")
        assert not (tmp_path / "tuned").exists()

    refused("no such folder; python -m sbp_jax.pair", pairs=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused("no manifest.json: it was not written to the end", pairs=tmp_path / "empty")
    refused("checkpoint there|not pairs", pairs=baseline / "data" / "train")
    model = dataclasses.replace(EXPERIMENT.model, d_ff=96)
    refused("--config.model.d_ff=64", dataclasses.replace(EXPERIMENT, model=model))
    refused("config.tuning.tokens=100 is no whole number of steps", with_tuning(tokens=100))
    refused("config.tuning.final_lr=1.0 has to lie between", with_tuning(final_lr=1.0))
    data = dataclasses.replace(EXPERIMENT.data, held_out=0.0)
    none = dataclasses.replace(EXPERIMENT, data=data)
    refused("0 held-out pairs.* raise it, or pair more", none)
    data = dataclasses.replace(EXPERIMENT.data, held_out=0.999)
    refused("no pair of two training documents", dataclasses.replace(EXPERIMENT, data=data))
    rows = [{"d1": "a", "d2": "b", "id1": "0", "id2": "1"}]
    (tmp_path / "torn").mkdir()
    torn = write(tmp_path / "torn", rows)
    (torn / "part-00000.parquet").write_bytes(b"PAR1")
    refused("not the file that the manifest lists", pairs=torn)


def test_pairs_that_are_all_too_long_are_refused_by_the_length(pairs, tokenizer, tmp_path):
    data = dataclasses.replace(EXPERIMENT.data, sequence_length=8)
    short = dataclasses.replace(EXPERIMENT, data=data)
    with pytest.raises(UserError, match="no example of at most 9 tokens; raise data.sequence_l"):
        pair_examples.write_stores(short, pairs, tokenizer, epath.Path(tmp_path / "stores"))


@pytest.mark.slow
def test_other_pairs_or_other_weights_in_the_same_folder_are_refused(pairs, baseline, tmp_path):
    short = with_tuning(tokens=10 * 8 * LENGTH, every_steps=10)
    copied = tmp_path / "baseline"
    shutil.copytree(baseline, copied)
    tuning.tune(short, pairs, str(copied), tmp_path / "tuned")
    with pytest.raises(UserError, match="config.tuning.tokens|config.train.tokens"):
        tuning.tune(EXPERIMENT, pairs, str(copied), tmp_path / "tuned")
    prompt = dataclasses.replace(short, synthesis=SynthesisConfig(prompt="{text} "))
    with pytest.raises(UserError, match="corpus_fingerprint"):
        tuning.tune(prompt, pairs, str(copied), tmp_path / "tuned")
    shutil.rmtree(copied / "checkpoints" / "20")
    shutil.copytree(tmp_path / "tuned" / "checkpoints" / "10", copied / "checkpoints" / "20")
    with pytest.raises(UserError, match="made from other inputs .checkpoint '"):
        tuning.tune(short, pairs, str(copied), tmp_path / "tuned")
