"""The whole loop as a real process: every arm, through a kill -9, to the same results."""

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sbp_jax.bootstrap import bootstrap, prepare, with_inputs
from sbp_jax.config import ArmsConfig, DataConfig, Experiment, ModelConfig, ToyWorldConfig
from sbp_jax.data.corpus import open_corpus, read_documents, verify_corpus
from sbp_jax.errors import UserError

ARMS = (
    "baseline",
    "tuned_baseline",
    "oracle",
    "sbp",
    "random_pairs",
    "unconditional",
    "longer_baseline",
)
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(1800)  # of the first test, the whole loop is a part
CONFIG = """
from sbp_jax.config import new_config


def get_config():
    config = new_config()
    config.model.update(
        num_layers=2, d_model=32, num_heads=2, num_kv_heads=1, head_dim=16, d_ff=64,
        vocab_size=400, scan_layers=False,
    )
    config.data.update(sequence_length=320, held_out=0.1)
    config.toyworld.update(
        concepts=40, documents=150, held_out_documents=30, fresh_documents=1000
    )
    config.train.update(batch_size=8, tokens=40 * 8 * 320, samples=0, tensorboard=False)
    config.optimizer.peak_lr = 1e-2
    config.eval.update(input="toyworld:held_out", every_steps=20, max_sequences=16)
    config.checkpoint.every_steps = 10
    config.tuning.update(tokens=20 * 8 * 320, batch_size=8, every_steps=10)
    config.synthesis.update(prompt="{text}\\n", max_tokens=150)
    config.arms.update(run="ARMS", synthetic_share=0.4, dropouts="0.0,0.5")
    return config
"""

# With so short a run's best settings, which are the baseline's: nothing else becomes another.
TUNED_WRITES = "--config.arms.synthesizer=tuned_baseline"


def start(folder, arms, *flags):
    config = folder / "config.py"
    config.write_text(CONFIG.replace("ARMS", arms))
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "sbp_jax.bootstrap", f"--config={config}",
             f"--workdir={folder / 'w'}", *flags],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
            stdout=log,
            stderr=log,
        )  # fmt: skip


def run(folder, arms, *flags):
    code = start(folder, arms, *flags).wait()
    said = (folder / "log").read_text()
    assert code == 0, said[-3000:]
    return json.loads((folder / "w" / "report" / "results.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    sweep = "--sweep=arms.synthetic_share=0.2 pairing.min_score=0.3,0.4"
    return folder, run(folder, ",".join(ARMS), "--config.rounds=2", sweep, TUNED_WRITES)


@pytest.mark.slow
def test_every_arm_has_the_same_tokens_and_a_loss(whole):
    folder, results = whole
    arms = dict(results["arms"])
    assert tuple(arms) == (*ARMS, "sbp_round2")
    longer = arms.pop("longer_baseline")[0]
    assert {run["tokens"] for runs in arms.values() for run in runs} == {40 * 8 * 320}
    assert longer["train_flops"] == pytest.approx(arms["sbp"][0]["total_flops"], rel=0.03)
    assert longer["settings"] == arms["tuned_baseline"][0]["settings"]
    tuned = arms["tuned_baseline"][0]
    assert tuned["settings"]["model.dropout"] == 0.0  # so short a run is best without
    assert tuned["held_out_loss"] == arms["baseline"][0]["held_out_loss"]
    of_synthesizer = folder / "w" / "seed0" / "sbp_documents" / "synthesizer" / "config.json"
    assert "/seed0/tuned_baseline/" in json.loads(of_synthesizer.read_text())["init_from"]
    flops = {arm: runs[0]["total_flops"] / runs[0]["train_flops"] for arm, runs in arms.items()}
    assert flops["baseline"] == flops["oracle"] == 1
    assert flops["tuned_baseline"] == 2
    assert flops["sbp"] == pytest.approx(flops["random_pairs"], rel=0.2)
    assert 1 < flops["unconditional"] < flops["sbp"]
    for runs in arms.values():
        assert 0 <= runs[0]["fact_accuracy"]["value"] <= 1


@pytest.mark.slow
def test_the_gap_is_given_against_every_baseline_and_for_the_controls(whole):
    found = whole[1]["gap_recovered"]
    arms = {name: runs[0]["held_out_loss"] for name, runs in whole[1]["arms"].items()}
    gain = arms["baseline"] - arms["oracle"]
    share = (arms["baseline"] - arms["sbp"]) / gain
    assert found["value"] == (pytest.approx(share) if gain > 0 else None)
    assert found["seeds"] == [found["value"]]
    assert set(found["controls"]) == {"random_pairs", "unconditional"}
    assert {"tuned_baseline", "longer_baseline"} < set(found)


@pytest.mark.slow
def test_what_was_consumed_is_counted_and_is_what_the_config_says(whole):
    for name, runs in whole[1]["arms"].items():
        consumed = runs[0]["consumed"]
        assert sum(source["share"] for source in consumed.values()) == pytest.approx(1)
        if name in ("sbp", "random_pairs", "unconditional", "sbp_round2"):
            assert consumed["synthetic"]["share"] == pytest.approx(0.4, abs=0.03)
            assert consumed["synthetic"]["passes"] == 1
            assert consumed["real"]["passes"] > 1
        else:
            assert set(consumed) == {"train"}


@pytest.mark.slow
def test_the_documents_are_measured_and_the_page_is_made(whole):
    folder, results = whole
    figures = {row["metric"]: row for row in results["quality"]["table"]}
    assert {"repetition", "pair_copying", "exact.non_factual", "novelty_1"} <= set(figures)
    assert figures["exact.non_factual"]["real"]["value"] < 0.3  # the world's own noise
    assert figures["novelty_1"]["synthetic"]["value"] > figures["novelty_1"]["real"]["value"]
    assert set(results["quality"]["controls"]) == {"random_pairs", "unconditional"}
    assert set(results["rounds"][1]["quality"]) >= {"duplicate", "novelty_1"}
    assert results["samples"] and all(len(sample["d2"]) == 2 for sample in results["samples"])
    report = folder / "w" / "report"
    page = (report / "index.html").read_text()
    assert " src=" not in page and " href=" not in page  # nothing that would have to be fetched
    assert len(list(report.glob("*.png"))) > 3


@pytest.mark.slow
def test_a_second_round_begins_with_the_model_of_the_first(whole):
    folder, results = whole
    seed = folder / "w" / "seed0"
    tuned = json.loads((seed / "sbp_round2_documents/synthesizer/config.json").read_text())
    assert tuned["init_from"] == str(seed / "sbp")
    assert [entry["round"] for entry in results["rounds"]] == [1, 2]
    losses = [results["arms"][arm][0]["held_out_loss"] for arm in ("sbp", "sbp_round2")]
    assert [entry["held_out_loss"] for entry in results["rounds"]] == losses


@pytest.mark.slow
def test_a_sweep_shares_what_its_settings_do_not_change(whole):
    folder, results = whole
    sweep = results["sweep"]
    assert [entry["settings"] for entry in sweep] == [
        {"arms.synthetic_share": 0.2, "pairing.min_score": score} for score in (0.3, 0.4)
    ]
    seed = folder / "w" / "seed0"
    alike, other = (
        f"sbp-arms.synthetic_share_0.2-pairing.min_score_{score}" for score in (0.3, 0.4)
    )
    assert (seed / alike).exists() and not (seed / f"{alike}_documents").exists()
    assert (seed / f"{other}_documents" / "synthesizer").exists()
    assert len({entry["held_out_loss"][0] for entry in sweep}) == 2
    assert [stage["stage"] for stage in results["stages"]].count("tune") == 4


@pytest.mark.slow
def test_synthetic_documents_are_seen_once_and_come_from_the_training_documents(whole):
    folder, _ = whole
    seed = folder / "w" / "seed0"
    verify_corpus(seed / "sbp_documents" / "kept")
    experiment = Experiment(toyworld=ToyWorldConfig(concepts=40, documents=150))
    train = {
        d.id for d in read_documents(open_corpus(str(folder / "w/data/train"), experiment), "stop")
    }
    validation = {
        d.id
        for d in read_documents(open_corpus(str(folder / "w/data/validation"), experiment), "stop")
    }
    assert len(train) + len(validation) == 150 and validation and not train & validation
    kept = open_corpus(str(seed / "sbp_documents" / "kept"), experiment)
    seeds = {json.loads(d.meta)["document"] for d in read_documents(kept, "stop")}
    assert seeds <= train and len(seeds) > 50
    log = (folder / "log").read_text()
    assert log.count("data    synthetic: ") == 6
    for line in (line for line in log.splitlines() if line.startswith("data    synthetic: ")):
        assert float(line.split()[-2]) <= 1.0  # passes


@pytest.mark.slow
def test_after_kill_9_and_ctrl_c_the_same_command_ends_in_the_same_results(whole, tmp_path):
    _, uninterrupted = whole
    seed = tmp_path / "w" / "seed0"
    for reached, sent in (
        (seed / "baseline" / "checkpoints" / "20", signal.SIGKILL),
        (seed / "oracle" / "checkpoints" / "10", signal.SIGINT),
        (seed / "sbp_documents" / "synthesizer" / "checkpoints" / "10", signal.SIGKILL),
        (seed / "sbp_documents" / "answers", signal.SIGKILL),
        (seed / "sbp" / "checkpoints" / "20", signal.SIGTERM),
    ):
        process = start(tmp_path, "baseline,sbp,oracle")
        deadline = time.monotonic() + 600
        while not reached.exists():
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(sent)
        code = process.wait()
        assert code == (-signal.SIGKILL if sent == signal.SIGKILL else 130)
    results = run(tmp_path, "baseline,sbp,oracle")
    for arm in ("baseline", "sbp", "oracle"):
        (found,), (expected,) = (of["arms"][arm] for of in (results, uninterrupted))
        assert found == expected | {"wall_s": found["wall_s"]}
    for name in ("value", "low", "high"):
        assert results["gap_recovered"][name] == uninterrupted["gap_recovered"][name]


@pytest.mark.slow
def test_ones_own_documents_are_judged_by_a_part_of_them_and_have_no_oracle(tmp_path):
    experiment = Experiment(toyworld=ToyWorldConfig(concepts=40, documents=400))
    texts = [d.text for d in read_documents(open_corpus("toyworld", experiment), "stop")]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    flags = (f"--config.data.input={tmp_path / 'own.jsonl'}", "--config.eval.input=")
    results = run(tmp_path, "baseline,oracle", *flags)
    assert list(results["arms"]) == ["baseline"] and results["gap_recovered"] == {}
    assert "no more documents of the kind, so no oracle" in (tmp_path / "log").read_text()
    parts = {}
    for name in ("train", "validation", "held_out"):
        corpus = open_corpus(str(tmp_path / "w" / "data" / name), Experiment())
        parts[name] = {document.text for document in read_documents(corpus, "stop")}
        assert parts[name]
    assert set.union(*parts.values()) == set(texts)
    assert sum(map(len, parts.values())) == len(set(texts))
    assert results["corpus"]["held_out_documents"] == len(parts["held_out"])


def test_what_judges_ones_own_documents_is_not_in_the_oracles_either(tmp_path):
    texts = [f"Number {n} of many, {n * n} squared." for n in range(400)]
    for name, some in (("own", texts[:200]), ("more", texts[::-1])):
        lines = [json.dumps({"text": text}) + "\n" for text in some]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    experiment = Experiment(
        model=ModelConfig(vocab_size=300),
        data=DataConfig(input=str(tmp_path / "own.jsonl"), held_out=0.1, workers=1),
        arms=ArmsConfig(oracle_input=str(tmp_path / "more.jsonl")),
    )
    folder = tmp_path / "data"
    for _ in range(2):  # and again, as after an interruption
        data = prepare(with_inputs(experiment, folder), folder)
        oracle = read_documents(open_corpus(str(folder / "oracle"), experiment), "stop")
        judges = {
            document.text
            for name in ("held_out", "validation")
            for document in read_documents(open_corpus(str(folder / name), experiment), "stop")
        }
        assert len(judges) > 20 and {document.text for document in oracle} == set(texts) - judges
        assert data.oracle.manifest["documents"] == 400 - len(judges)


@pytest.mark.slow
def test_what_is_damaged_in_a_workdir_is_said_and_what_is_deleted_made_again(whole):
    folder, before = whole
    documents = folder / "w" / "seed0" / "sbp_documents"
    for record in (documents / "pair.json", folder / "w" / "seed0" / "sbp" / "held_out.json"):
        whole_record = record.read_bytes()
        record.write_bytes(whole_record[:40])
        assert start(folder, "baseline,tuned_baseline,sbp", TUNED_WRITES).wait() == 2
        assert f"{record}: damaged" in (folder / "log").read_text().splitlines()[-1]
        record.write_bytes(whole_record)
    shutil.rmtree(documents / "kept")
    after = run(folder, "baseline,tuned_baseline,sbp", TUNED_WRITES)
    for name in ("samples", "synthesis"):
        assert after[name] == before[name]
    assert after["quality"]["table"] == before["quality"]["table"]


def test_a_corpus_too_small_for_its_parts_is_refused_each_time(tmp_path):
    texts = tmp_path / "own.jsonl"
    texts.write_text("".join(json.dumps({"id": str(i), "text": "a"}) + "\n" for i in range(2)))
    experiment = Experiment(data=DataConfig(input=str(texts), held_out=0.01, workers=1))
    for _ in range(2):
        with pytest.raises(UserError, match="none of its documents is for held_out; it needs more"):
            bootstrap(experiment, tmp_path / "w")


def test_a_workdir_is_neither_in_its_corpus_nor_around_it(tmp_path):
    corpus = tmp_path / "texts"
    corpus.mkdir()
    (corpus / "a.txt").write_text("one")
    experiment = Experiment(data=DataConfig(input=str(corpus)))
    with pytest.raises(UserError, match="runs/w lies in the input folder"):
        bootstrap(experiment, corpus / "runs" / "w")
    own = tmp_path / "data" / "train" / "part-00000.jsonl"
    own.parent.mkdir(parents=True)
    own.write_text('{"text": "one"}\n')
    experiment = Experiment(data=DataConfig(input=f"{own.parent}/*.jsonl"))
    with pytest.raises(UserError, match="data holds files of the input"):
        bootstrap(experiment, tmp_path)
    assert [path.name for path in corpus.iterdir()] == ["a.txt"]
    assert [path.name for path in own.parent.iterdir()] == [own.name]


def test_without_vllm_it_is_missed_before_anything_is_trained(monkeypatch, tmp_path):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    with pytest.raises(UserError, match="vLLM is not installed"):
        bootstrap(Experiment(), tmp_path, engine="vllm")


def test_a_damaged_config_of_a_workdir_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"seed":')
    with pytest.raises(UserError, match="config.json: not JSON .* use another --workdir"):
        bootstrap(Experiment(), tmp_path)


@pytest.mark.parametrize(
    "change, line",
    [
        ("config.arms.run=baseline,spb", "'spb' is no arm; there are: baseline, tuned_baseline"),
        ("config.arms.run=sbp,oracle", "config.arms.run has no baseline"),
        ("config.arms.run=baseline,longer_baseline", "longer_baseline needs the arm sbp"),
        ("config.arms.run=baseline,tuned_sbp", "tuned_sbp needs the arm sbp"),
        ("config.arms.run=baseline,sbp", "no tuned_baseline, whose checkpoint becomes the synth"),
        ("config.arms.synthesizer=sbp", "is 'sbp'; it has to be baseline or tuned_baseline"),
        ("config.tuning.tokens=100", "config.tuning.tokens=100 is no whole number of steps"),
        ("config.arms.dropouts=low", "config.arms.dropouts is 'low'; write it as '0.0,0.1'"),
        ("config.arms.dropouts=0.1,1.5", "config.model.dropout is 1.5; it has to be at least 0"),
        ("config.synthesis.prompt=prompt.txt", "'prompt.txt' has no {text} in it"),
        ("sweep=arms.synthetic_share=most", "synthetic_share is a float"),
        ("sweep=arms.share=0.5", "'arms.share=0.5' is not SECTION.FIELD=VALUE"),
        ("sweep=arms.run=baseline", "'arms.run=baseline' is not SECTION.FIELD=VALUE"),
        ("sweep=pairing.min_score=3", "config.pairing.min_score is 3.0; it has to be"),
        ("sweep=tuning.tokens=7", "config.tuning.tokens=7 is no whole number of steps"),
    ],
)
def test_what_could_only_fail_later_is_refused_at_once(change, line, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sbp_jax.bootstrap", "--config=configs/laptop.py",
         f"--workdir={tmp_path}", f"--{change}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert line in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())
