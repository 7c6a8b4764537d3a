"""Closed-book answers and what becomes of them, through the command and a scripted server; the
likelihoods of a small model beside transformers.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from entigraph.evaluation.answers import LETTERS, letter
from entigraph.evaluation.asking import PROMPTS, Prompts
from entigraph.evaluation.closed_book import outcome, own_part
from entigraph.evaluation.likelihood import PLACE, logprobs_of_choices
from entigraph.evaluation.outcomes import Outcome, by_article, interval
from entigraph.evaluation.questions import read_questions
from sbp_jax.config import DataConfig, Experiment, ModelConfig, to_json
from sbp_jax.data.tokenizer import train_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.evaluation.scores import Results, Score
from sbp_jax.inference.sampler import Sampler
from sbp_jax.model.transformer import param_shapes
from sbp_jax.training.checkpoint import save_params
from tests.entigraph.conftest import text

ROOT = Path(__file__).parents[3]
ARTICLES, EACH = 6, 4


@pytest.fixture
def questions(tmp_path):
    """Of each article every second question is hard; the right choice is (article + n) % 4."""
    rows = []
    for a in range(ARTICLES):
        asked = [
            {
                "question": f"What happens in {a}-{n}?",
                "options": [f"event {a}-{n}-{o}" + " again" * o for o in range(4)],
                "gold_label": (a + n) % 4 + 1,
                "difficult": n % 2,
                "question_unique_id": f"{a}-{n}",
            }
            for n in range(EACH)
        ]
        rows.append(
            {"article_id": f"id{a}", "title": f"Tale {a}", "author": "A. Writer", "year": 1950 + a,
             "article": f"Tale {a} begins. " * 20, "questions": asked}
        )  # fmt: skip
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(prompt):
    """The question at the end of a prompt, and its right letter."""
    a, n = map(int, re.findall(r"What happens in (\d+)-(\d+)\?", prompt)[-1])
    return a, n, LETTERS[(a + n) % 4]


def evaluate(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "entigraph.evaluate", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        **kwargs,
    )


def config(folder, server, **api):
    fields = "".join(f"    config.api.{name} = {value!r}\n" for name, value in api.items())
    (folder / "config.py").write_text(
        "from sbp_jax.config import new_config\n\n\ndef get_config():\n    config = new_config()\n"
        f"    config.api.url = {server.url!r}\n    config.api.model = 'm'\n{fields}"
        "    return config\n"
    )
    return f"--config={folder}/config.py"


def results(folder):
    return json.loads((folder / "results.json").read_text())


def scores(folder, task="closed_book"):
    return {n: m["value"] for n, m in results(folder)["tasks"][task]["metrics"].items()}


def lines(folder, task="closed_book"):
    return [json.loads(x) for x in (folder / f"outcomes/{task}.jsonl").read_text().splitlines()]


def test_every_question_counts_and_the_halves_and_parse_rate_stand_beside(
    serve, tmp_path, questions
):
    def script(sent):
        a, n, right = asked(sent.prompt)
        if a == 0:
            return text("I do not remember.")  # no answer to any of article 0
        if n == 1:
            return text("It may be B and C.\nAnswer: B and C.")
        wrong = LETTERS[(LETTERS.index(right) + 1) % 4]
        return text(f" Thinking.\nAnswer: {wrong if n == 3 else right}.\n\nText: another")

    server = serve(script)
    flags = [config(tmp_path, server), "--engine=api", f"--questions={questions}", "--samples=3"]
    done = evaluate(*flags, f"--output={tmp_path}/w")
    assert done.returncode == 0, done.stderr
    assert len(server.seen) == ARTICLES * EACH * 3
    assert all(sent.body["max_tokens"] == 300 for sent in server.seen)
    assert all(sent.body["temperature"] == 0.1 for sent in server.seen)
    found = scores(tmp_path / "w")
    assert found == {
        "accuracy": pytest.approx(10 / 24),  # of all questions, not of the 15 that were answered
        "hard": 0.0,
        "easy": pytest.approx(10 / 12),
        "parse_rate": pytest.approx(15 / 24),
        "sample_parse_rate": pytest.approx(15 / 24),
    }
    per_question = {row["question"]: row for row in lines(tmp_path / "w")}
    assert per_question["0-0"] | {"article": ""} == {
        "question": "0-0", "article": "", "difficult": False, "gold": "A", "answer": None,
        "right": False, "samples": "---",
    }  # fmt: skip
    assert per_question["1-0"]["samples"] == "BBB" and per_question["1-0"]["right"]
    (row,) = [r for r in results(tmp_path / "w")["table"] if r["metric"] == "accuracy"]
    low, high = row["interval"]
    assert low < 10 / 24 < high and row["questions"] == 24 and row["documents"] == ARTICLES
    assert "| closed book | accuracy %" in done.stdout and "41.67" in done.stdout
    # The same command asks nothing.
    again = evaluate(*flags, f"--output={tmp_path}/w")
    assert again.stdout == done.stdout and len(server.seen) == ARTICLES * EACH * 3


def test_two_runs_are_compared_question_by_question(serve, tmp_path, questions):
    def script(knows):
        def answer(sent):
            a, n, right = asked(sent.prompt)
            return text(f"Answer: {right if n in knows else 'E'}")

        return answer

    for name, knows in (("before", (0,)), ("after", (0, 1, 2))):
        server = serve(script(knows))
        done = evaluate(
            config(tmp_path, server),
            "--engine=api",
            "--samples=1",
            f"--questions={questions}",
            f"--name={name}",
            f"--output={tmp_path}/{name}",
            *([f"--against={tmp_path}/before"] if name == "after" else []),
        )
        assert done.returncode == 0, done.stderr
    comparison = json.loads((tmp_path / "after" / "comparison.json").read_text())
    assert comparison["models"] == ["before", "after"]
    row = next(r for r in comparison["rows"] if r["metric"] == "accuracy")
    # All articles gain alike: whatever is resampled, the difference is the same.
    assert row["cells"][1]["delta"] == pytest.approx(0.5)
    assert row["cells"][1]["interval"] == pytest.approx([0.5, 0.5])
    assert "+50.00" in done.stdout
    assert Results.read(tmp_path / "after").tasks["closed_book"].metrics["hard"].value == 0.5


def test_killed_in_the_middle_it_goes_on_and_asks_nothing_twice(serve, tmp_path, questions):
    enough = threading.Event()

    def script(sent):
        if sent.number == 30:
            enough.set()
        if sent.number >= 30 and not again:
            time.sleep(0.2)
        return text(f"Answer: {asked(sent.prompt)[2]}.")

    again = []
    server = serve(script)
    flags = [config(tmp_path, server, concurrency=2), "--engine=api", f"--questions={questions}"]
    flags += [f"--output={tmp_path}/w", "--samples=4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "entigraph.evaluate", *flags], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    assert enough.wait(60)
    time.sleep(0.3)  # journals are written by then, for the most part
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "w" / "results.json").exists()
    again.append(True)
    done = evaluate(*flags)
    assert done.returncode == 0, done.stderr
    assert scores(tmp_path / "w")["accuracy"] == 1.0
    # What was in flight, and the last lines of a journal, may be asked again.
    asked_in_all = ARTICLES * EACH * 4
    assert asked_in_all <= len(server.seen) <= asked_in_all + 20


def test_a_storm_of_429_costs_no_answer(serve, tmp_path, questions):
    refused = set()

    def script(sent):
        key = (sent.prompt, sent.body.get("seed"))
        if key not in refused:
            refused.add(key)
            return 429, {"error": "slow down"}, {"retry-after": "0.01"}
        return text(f"Answer: {asked(sent.prompt)[2]}.")

    server = serve(script)
    done = evaluate(
        config(tmp_path, server), "--engine=api", f"--questions={questions}", "--samples=1",
        f"--output={tmp_path}/w",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert scores(tmp_path / "w")["accuracy"] == 1.0 and len(server.seen) == 2 * ARTICLES * EACH


def test_a_budget_ends_it_with_3_and_a_higher_one_goes_on(serve, tmp_path, questions):
    server = serve(lambda sent: text("Answer: A.", usage=(1000, 10)))
    flags = [config(tmp_path, server), "--engine=api", f"--questions={questions}", "--samples=1"]
    flags += [f"--output={tmp_path}/w"]
    dry = evaluate(*flags, "--dry_run")
    assert dry.returncode == 0 and "requests       24" in dry.stdout and not server.seen
    done = evaluate(*flags, "--max_tokens=12000")
    assert done.returncode == 3, done.stderr
    assert 0 < len(server.seen) <= 11 and "12000" in done.stderr
    assert evaluate(*flags, "--max_tokens=1000000").returncode == 0
    assert len(server.seen) == 24


MISTAKES = {
    "--mode=guessing": "--mode=guessing: there are closed_book, likelihood",
    "": "--questions is missing",
    "--questions=Q": "--checkpoint is missing",
    "--questions=Q --engine=api --samples=2 --temperature=0": "is the same text as often",
    "--questions=Q --engine=api --mode=likelihood": "--checkpoint is missing",
    "--questions=Q --engine=api --mode=summaries": "needs --references=FILE",
    "--questions=Q --engine=api --mode=open_book --sweep=k=0": "out of range",
    "--questions=Q --engine=api --mode=open_book --sweep=size=9": "'size=9' is no field",
    "--questions=Q --max_cost=1": "--max_cost is no limit",
    "--mode=forgetting --engine=api": "needs --general=CORPUS",
    "--questions=nowhere.jsonl": "nowhere.jsonl: cannot read",
    "--scaling=many:W": "'many:W' is no TOKENS:FOLDER",
}
# A child for each, of one process that has imported everything.
FORKED = """
import json, os, sys
from sbp_jax import cli
from entigraph import evaluate
for flags in json.loads(sys.stdin.read()):
    if not (child := os.fork()):
        os.dup2(1, 2)
        sys.argv = ["evaluate", *flags]
        cli.run(evaluate.main, needs=("output",))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_mistakes_are_one_line(tmp_path, questions, serve):
    own = [config(tmp_path, serve(lambda sent: text("Answer: A."))), f"--output={tmp_path}/w"]
    cases = [[*own, *flags.replace("=Q", f"={questions}").split()] for flags in MISTAKES]
    done = subprocess.run(
        [sys.executable, "-c", FORKED], cwd=ROOT, input=json.dumps(cases), text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert len(said) == 2 * len(MISTAKES), done.stdout
    for (flags, reason), line, code in zip(MISTAKES.items(), said[::2], said[1::2], strict=True):
        assert line.startswith("error: ") and reason in line and code == "2", (flags, line, code)


def test_the_answer_is_one_of_the_parseable_samples_by_seed_and_question(questions):
    article = read_questions(str(questions))[0]
    texts = ["Answer: A.", "no idea", "Answer: C.", "Answer: A."]
    drawn = [outcome(article, article.questions[0], texts, seed).answer for seed in range(400)]
    assert set(drawn) == {0, 2} and 0.55 < np.mean(np.array(drawn) == 0) < 0.78
    assert drawn == [outcome(article, article.questions[0], texts, s).answer for s in range(400)]
    other = [outcome(article, article.questions[1], texts, seed).answer for seed in range(400)]
    assert other != drawn
    assert outcome(article, article.questions[0], texts, 0).samples == "A-CA"
    assert outcome(article, article.questions[0], ["", "?"], 0).answer is None


def test_what_a_model_asks_itself_is_not_read():
    assert own_part(" So. Answer: B.\n\nText: X\nQuestion: Y\nAnswer: C.") == " So. Answer: B.\n"


@pytest.mark.parametrize("name", ["closed_book", "open_book"])
def test_the_worked_examples_are_five_and_end_in_answers(name):
    prompt = (PROMPTS / f"{name}.txt").read_text()
    thoughts = re.findall(r"Thinking:(.+?)(?=\n\n)", prompt, re.DOTALL)
    found = [letter(thought) for thought in thoughts]
    assert len(found) == 5 and None not in found and len(set(found)) == 4
    assert all(re.search(r"\nAnswer: [A-D]\.$", thought) for thought in thoughts)
    headings = re.findall(r'^Text: (".+", by .+ \(\d{4}\))$', prompt, re.MULTILINE)
    assert len(set(headings)) == 5


def test_prompts_are_filled_in_one_go_and_may_be_the_users(tmp_path):
    (tmp_path / "likelihood.txt").write_text("{question} {choice}.")
    own = Prompts(str(tmp_path))
    assert own.fill("likelihood", question="{choice}", choice="x") == "{choice} x."
    assert own.read("closed_book") == Prompts().read("closed_book")
    assert own.hashes["closed_book"] == (package := Prompts()).hashes.setdefault(
        "closed_book", own.hashes["closed_book"]
    )
    package.read("likelihood")
    assert own.hashes["likelihood"] != package.hashes["likelihood"]
    with pytest.raises(UserError, match="likelihood.txt has no {heading}"):
        own.fill("likelihood", heading="x", question="y", choice="z")


def test_intervals_are_of_articles(questions):
    """Where all questions of an article stand or fall together, 24 questions are worth six."""
    articles = read_questions(str(questions))
    together = [
        Outcome(q, a.text.id, q.gold if number % 2 else None)
        for number, a in enumerate(articles)
        for q in a.questions
    ]
    apart = [
        Outcome(q, a.text.id, q.gold if number % 2 else None)
        for a in articles
        for number, q in enumerate(a.questions)
    ]
    widths = {}
    for name, outcomes in (("together", together), ("apart", apart)):
        score = by_article(articles, outcomes).metrics["accuracy"]
        assert score.value == 0.5
        low, high = interval(score, name)
        widths[name] = high - low
    assert widths["together"] > 0.6 and widths["apart"] == 0.0


@pytest.mark.parametrize("right", [0.0, 0.5, 1.0])
def test_where_articles_do_not_differ_the_interval_is_that_of_as_many_questions(right):
    score = Score(np.full(20, 8 * right), np.full(20, 8.0))
    low, high = interval(score, "a", share=True)
    assert low <= right <= high
    assert [low, high] == pytest.approx({0: [0, 0.161], 0.5: [0.299, 0.701], 1: [0.839, 1]}[right],
                                        abs=1e-3)  # fmt: skip
    assert interval(Score(score.values[:1], score.weights[:1]), "a", share=True) is None


MODEL = ModelConfig(
    num_layers=2, d_model=32, num_heads=2, num_kv_heads=1, head_dim=16, d_ff=64, vocab_size=500
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model with random weights, large enough that its answers differ."""
    folder = tmp_path_factory.mktemp("model") / "run"
    draw = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: draw.normal(0.1, 0.3, x.shape).astype(np.float32), param_shapes(MODEL)
    )
    save_params(folder, params)
    e = Experiment(model=MODEL, data=DataConfig(sequence_length=256))
    (folder / "config.json").write_text(to_json(e))
    texts = [path.read_text() for path in PROMPTS.glob("*.txt")]
    train_tokenizer(texts * 2, MODEL.vocab_size, folder / "tokenizer")
    return folder


@pytest.mark.slow
def test_likelihoods_are_those_of_transformers(tmp_path, run):
    import torch
    import transformers

    from sbp_jax.interop.export import export
    from sbp_jax.training.checkpoint import open_params, run_config

    sampler = Sampler.from_checkpoint(str(run))
    asked = [
        (
            f"Text: a tale\nQuestion: What did he see?\nAnswer: {PLACE}",
            ("a ship", "a", "two", "x y"),
        ),
        (f"He saw {PLACE}.", ("a ship", "a ship at sea", "nothing", "the")),
    ]
    found = logprobs_of_choices(asked, sampler)
    read = open_params(str(run), param_shapes(MODEL))
    export(str(tmp_path / "hf"), run_config(str(run)), sampler.tokenizer, read)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokenizer = sampler.tokenizer
    begin = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    for (prompt, options), row in zip(asked, found, strict=True):
        before, after = prompt.split(PLACE)
        texts = [tokenizer.encode([before + o + after])[0] for o in options]
        stem = tokenizer.encode([before.rstrip()])[0]
        start = min(
            next((i for i, (x, y) in enumerate(zip(stem, t, strict=False)) if x != y), len(stem))
            for t in texts
        )
        expected = []
        for tokens in texts:
            ids = torch.tensor([[begin, *tokens]])
            with torch.no_grad():
                logprobs = model(ids).logits.log_softmax(-1)[0, :-1]
            each = logprobs.gather(1, ids[0, 1:, None])[:, 0]
            expected.append(float(each[start:].sum()))
        np.testing.assert_allclose(row, expected, atol=2e-3)


def test_likelihood_and_general_text_through_the_command(tmp_path, run, questions):
    (tmp_path / "general.jsonl").write_text(
        "".join(json.dumps({"text": f"The ship went on to port {n}."}) + "\n" for n in range(5))
    )
    flags = [f"--checkpoint={run}", f"--questions={questions}", f"--output={tmp_path}/w"]
    done = evaluate(*flags, "--mode=likelihood")
    assert done.returncode == 0, done.stderr
    first = results(tmp_path / "w")["tasks"]
    assert set(first) == {"likelihood", "likelihood_per_byte"}
    per_byte = [row["answer"] for row in lines(tmp_path / "w", "likelihood_per_byte")]
    whole = [row["answer"] for row in lines(tmp_path / "w", "likelihood")]
    assert None not in whole and whole != per_byte
    # Another mode is added; against itself nothing is gained and nothing lost.
    done = evaluate(
        *flags,
        "--mode=forgetting",
        f"--general={tmp_path}/general.jsonl",
        f"--against={tmp_path}/w",
    )
    assert done.returncode == 0, done.stderr
    both = results(tmp_path / "w")
    assert set(both["tasks"]) == {"likelihood", "likelihood_per_byte", "general_text"}
    assert {r["metric"] for r in both["table"] if r["task"] == "general_text"} == {
        "loss", "perplexity",
    }  # fmt: skip
    found = json.loads((tmp_path / "w" / "new_without_loss.json").read_text())
    assert found["accuracy_gained"]["value"] == found["perplexity_rise"]["value"] == 0.0
    assert found["holds"] is False and "without loss of the old: no" in done.stdout
