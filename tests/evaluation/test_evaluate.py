"""`python -m sbp_jax.evaluate`: the suite by three backends, and what a person does with it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = {
    "OpenWebText2": 0,
    "LAMBADA": 0,
    "MMLU": 5,
    "ARC-Challenge": 0,
    "ARC-Easy": 0,
    "SciQ": 0,
    "Winogrande": 0,
    "TriviaQA": 1,
    "WebQS": 1,
}


@pytest.fixture(scope="module")
def scored(evaluate, trained, rows, tmp_path_factory):
    """The suite's folder by our own harness, and what the command printed."""
    folder = tmp_path_factory.mktemp("jax")
    done = evaluate(
        f"--checkpoint={trained}", "--suite=sbp", f"--tasks_dir={rows}", f"--workdir={folder}"
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_the_suite_is_the_papers_table(scored):
    folder, printed = scored
    recorded = results(folder)
    assert {row["benchmark"]: row["shots"] for row in recorded["table"]} == BENCHMARKS
    assert recorded["average"]["benchmark"] == "Average QA"
    for row in [*recorded["table"], recorded["average"]]:
        assert row["value"] is not None and row["stderr"] >= 0
        assert f"| {row['benchmark']} " in printed
    assert recorded["tasks"]["mmlu"]["documents"] == 16
    assert (folder / "table.md").read_text().strip() == printed.strip()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["hf", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_lm_evals_own_backends_give_the_same_table(
    scored, evaluate, trained, rows, tmp_path, engine
):
    done = evaluate(
        f"--checkpoint={trained}",
        f"--tasks_dir={rows}",
        f"--workdir={tmp_path}",
        f"--engine={engine}",
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = results(scored[0]), results(tmp_path)
    for task, entry in ours["tasks"].items():
        for metric, score in entry["metrics"].items():
            other = theirs["tasks"][task]["metrics"][metric]
            assert score["value"] == pytest.approx(other["value"], rel=2e-4), (task, metric)
            assert score["stderr"] == pytest.approx(other["stderr"], rel=1e-3), (task, metric)
    accuracies = [row for row in ours["table"] if row["percent"]]
    by_name = {row["benchmark"]: row["value"] for row in theirs["table"]}
    assert all(row["value"] == by_name[row["benchmark"]] for row in accuracies)


def test_lm_eval_averages_to_the_same_scores(trained, rows):
    """Ours are taken from what each document got; these are lm-eval's own sums."""
    from lm_eval.evaluator import evaluate

    from sbp_jax.evaluation.harness import HarnessModel
    from sbp_jax.evaluation.run import _prepare, _scores
    from sbp_jax.evaluation.tasks import plan
    from sbp_jax.inference.sampler import Sampler

    model = HarnessModel(Sampler.from_checkpoint(str(trained)))
    names = "arc_easy,lambada_openai,winogrande"
    for planned in plan(names, str(rows), print):
        _prepare(planned, model)
        ours = _scores(planned, model, None).metrics
        [task] = planned.tasks
        theirs = evaluate(model, {"tasks": {task.task_name: task}}, bootstrap_iters=100)
        lines = theirs["results"][task.task_name]
        for metric in ("acc", "acc_norm", "perplexity"):
            if metric in ours:
                assert ours[metric].value == pytest.approx(lines[f"{metric},none"])
            if metric in ours and metric != "perplexity":
                assert ours[metric].stderr == pytest.approx(lines[f"{metric}_stderr,none"])


def test_the_same_command_skips_what_is_scored_and_a_changed_row_is_scored_anew(
    evaluate, trained, rows, tmp_path
):
    folder = tmp_path / "rows"
    folder.mkdir()
    for task in ("arc_easy", "sciq"):
        shutil.copy(rows / f"{task}.jsonl", folder)
    flags = (f"--checkpoint={trained}", f"--tasks_dir={folder}", f"--workdir={tmp_path / 'w'}")
    first = evaluate(*flags)
    assert first.returncode == 0, first.stderr
    assert "has no openwebtext2.jsonl, lambada_openai.jsonl" in first.stderr
    before = results(tmp_path / "w")
    again = evaluate(*flags)
    assert again.stderr.count("scored already") == 2 and results(tmp_path / "w") == before

    lines = (folder / "sciq.jsonl").read_text().splitlines()
    (folder / "sciq.jsonl").write_text("\n".join(lines[1:]))
    changed = evaluate(*flags)
    assert changed.stderr.count("scored already") == 1
    assert results(tmp_path / "w")["tasks"]["sciq"]["documents"] == len(lines) - 1


@pytest.mark.slow
def test_after_kill_9_the_same_command_goes_on(evaluate, scored, trained, rows, tmp_path):
    flags = [f"--checkpoint={trained}", f"--tasks_dir={rows}", f"--workdir={tmp_path}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sbp_jax.evaluate", *flags],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("tasks/arc_challenge.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "results.json").exists()
    done = evaluate(*flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("scored already") >= 4
    ours, whole = results(tmp_path), results(scored[0])
    assert ours["tasks"] == whole["tasks"]


def test_checkpoints_are_compared_beside_the_papers_figures(
    scored, evaluate, error, trained, rows, tmp_path
):
    assert "name two or more" in error("--compare", scored[0])
    other = tmp_path / "other"
    done = evaluate(f"--checkpoint={trained}", f"--tasks_dir={rows}", f"--workdir={other}")
    assert done.returncode == 0, done.stderr
    done = evaluate(
        "--compare", scored[0], other, "--paper=200b_3b", f"--workdir={tmp_path / 'table'}"
    )
    assert done.returncode == 0, done.stderr
    for name in BENCHMARKS:
        [line] = [line for line in done.stdout.splitlines() if line.startswith(f"| {name} ")]
        assert "tie" in line or "few" in line
    assert "47.66" in done.stdout
    assert {path.suffix for path in (tmp_path / "table").iterdir()} >= {".md", ".json", ".html"}


def test_contaminated_documents_are_shown_with_the_clean_score(evaluate, trained, world, tmp_path):
    texts = [{"text": text} for text in world[:6]]
    (tmp_path / "rows").mkdir()
    for name, some in (("openwebtext2", texts), ("seen", texts[2:4])):
        path = tmp_path / "rows" / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in some))
    flags = (f"--tasks_dir={tmp_path / 'rows'}", f"--workdir={tmp_path / 'w'}")
    seen = f"--contamination={tmp_path / 'rows' / 'seen.jsonl'}"
    done = evaluate(f"--checkpoint={trained}", *flags, seen)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "w" / "contamination.json").read_text())["tasks"]
    assert found["openwebtext2"]["documents"] == 6
    assert "2 of 6" in done.stdout
    alone = evaluate(seen, f"--workdir={tmp_path / 'w'}")
    assert alone.returncode == 0 and "2 of 6" in alone.stdout


def test_perplexity_is_measured_on_any_corpus(evaluate, trained, tmp_path):
    done = evaluate(
        f"--checkpoint={trained}",
        "--perplexity=toyworld:held_out",
        "--limit=20",
        f"--workdir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    metrics = results(tmp_path)["tasks"]["perplexity"]["metrics"]
    assert 0 < metrics["bits_per_byte"]["value"] < 4 and metrics["loss"]["stderr"] > 0


def test_every_mistake_is_one_line(error, trained, rows, tmp_path):
    here = (f"--checkpoint={trained}", f"--workdir={tmp_path / 'w'}")
    local = (*here, f"--tasks_dir={tmp_path}")
    assert "--checkpoint is missing" in error()
    assert "--checkpoint is missing" in error("--contamination=toyworld", "--suite=sbp")
    assert "no such folder" in error(*here, "--tasks_dir=nowhere")
    assert "no rows of any benchmark" in error(*local)
    (tmp_path / "arc_easy.jsonl").write_text('{"question": "a", "choices": 1}\n')
    assert "arc_easy.jsonl: line 1 has no column 'answerKey'" in error(*local)
    (tmp_path / "arc_easy.jsonl").write_text("{\n")
    assert "arc_easy.jsonl: line 1 is no JSON" in error(*local)
    (tmp_path / "arc_easy.jsonl").write_text("\n")
    assert "arc_easy.jsonl: no rows" in error(*local)
    wrong = {"question": "a", "choices": {"text": ["b"], "label": ["A"]}, "answerKey": "Z"}
    (tmp_path / "arc_easy.jsonl").write_text(json.dumps(wrong))
    assert "arc_easy: lm-eval cannot make a task of it" in error(*local)
    (tmp_path / "arc_easy.jsonl").unlink()
    (tmp_path / "broken.yaml").write_text("task: [unclosed\n")
    assert "broken.yaml: cannot be read as a task" in error(*local)
    (tmp_path / "broken.yaml").write_text("output_type: multiple_choice\n")
    assert "broken.yaml: no `task:` and no `group:`" in error(*local)
    (tmp_path / "broken.yaml").unlink()
    assert "did you mean 'arc_easy'?" in error(*here, "--suite=arc_eazy")
    assert "--paper" in error("--compare", tmp_path, "--paper=9t")
    assert "no results.json" in error("--compare", tmp_path / "x", tmp_path / "y")
    assert "no results.json" in error("--contamination=toyworld", f"--workdir={tmp_path / 'x'}")
    assert "unexpected argument 'runs'" in error(*here, "runs")
    assert "--contamination is empty" in error(*here, "--contamination=")
    assert "--problems is of use with --budget_forcing only" in error(*here, "--problems=x")
    assert "--stride is of use with --perplexity only" in error(*here, "--stride=8")
    assert "--budget_forcing and --suite are two commands" in error(
        *here, "--budget_forcing=max=8", "--suite=sbp"
    )
    assert "--compare and --contamination are two" in error("--compare", "--contamination=x", "a")
    assert "is measured by --engine=jax" in error(*here, "--perplexity=toyworld", "--engine=hf")


def test_an_unreachable_hub_is_one_line_that_names_the_way_out(error, trained, tmp_path):
    line = error(f"--checkpoint={trained}", "--suite=arc_easy", f"--workdir={tmp_path}")
    assert "allenai/ai2_arc" in line and "--tasks_dir" in line


def test_ones_own_task_is_scored_from_a_yaml_file(evaluate, trained, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\n"
        f"dataset_kwargs:\n  data_files:\n    test: {tmp_path}/mine.jsonl\n"
        "output_type: multiple_choice\ntest_split: test\n"
        'doc_to_text: "{{q}}"\ndoc_to_choice: "{{c}}"\ndoc_to_target: "{{a}}"\n'
    )
    rows = [{"q": "The town is", "c": ["old", "new"], "a": i % 2} for i in range(4)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = evaluate(
        f"--checkpoint={trained}",
        "--suite=mine",
        f"--tasks_dir={tmp_path}",
        f"--workdir={tmp_path / 'w'}",
    )
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "w")["tasks"]["mine"]["metrics"]["acc"]["value"] == 0.5
