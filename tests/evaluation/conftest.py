"""A small model that has learnt something, and rows of every benchmark of the suite about it."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAINED = """
from sbp_jax.config import new_config


def get_config():
    config = new_config()
    config.model.update(
        num_layers=2, d_model=64, num_heads=4, num_kv_heads=2, head_dim=32, d_ff=128, vocab_size=640
    )
    config.data.sequence_length = 512  # for five examples of MMLU
    config.toyworld.update(concepts=40, documents=400, held_out_documents=40)
    config.train.update(batch_size=4, tokens=60 * 4 * 512, log_every=20, samples=0)
    config.optimizer.peak_lr = 5e-3
    config.eval.max_sequences = 16
    return config
"""


def command(module, *flags):
    """Run as a person would; stdout and stderr apart."""
    return subprocess.run(
        [sys.executable, "-m", module, *flags],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="session")
def evaluate():
    return lambda *flags: command("sbp_jax.evaluate", *map(str, flags))


@pytest.fixture(scope="session")
def error(evaluate):
    def line(*flags):
        done = evaluate(*flags)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr.splitlines()[-1].removeprefix("error: ")

    return line


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "config.py").write_text(TRAINED)
    done = command("sbp_jax.train", f"--config={folder}/config.py", f"--workdir={folder}/run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="session")
def world():
    """Sentences of the toy world, which the model was trained on."""
    from sbp_jax.config import Experiment
    from sbp_jax.data.corpus import open_corpus, read_documents

    documents = read_documents(open_corpus("toyworld:held_out", Experiment()), "stop")
    return [document.text for document in documents]


@pytest.fixture(scope="session")
def rows(tmp_path_factory, world):
    """--tasks_dir with rows as they are on the hub, made of the world's sentences."""
    folder, chance = tmp_path_factory.mktemp("rows"), random.Random(0)
    sentences = [s.strip() for text in world for s in text.split(".") if 5 < len(s.split()) < 14]

    def halves():
        words = chance.choice(sentences).split()
        return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])

    def arc(_):
        question, right = halves()
        texts = [halves()[1] for _ in range(3)] + [right]
        chance.shuffle(texts)
        letters = "ABCD"
        return {
            "question": question,
            "choices": {"text": texts, "label": list(letters)},
            "answerKey": letters[texts.index(right)],
        }

    def sciq(_):
        wrong = {f"distractor{i}": halves()[1] for i in (1, 2, 3)}
        question, right = halves()
        support = chance.choice(sentences)
        return {"support": support, "question": question, "correct_answer": right, **wrong}

    def winogrande(i):
        begin, end = halves()
        options = {f"option{n}": chance.choice(sentences).split()[0] for n in (1, 2)}
        return {"sentence": f"{begin} _ {end}", **options, "answer": str(i % 2 + 1)}

    def mmlu(i):
        return {
            "question": halves()[0],
            "choices": [sentence.split()[0] for sentence in chance.choices(sentences, k=4)],
            "answer": i % 4,
            "subject": ("river_law", "letters")[i % 2],
        }

    def trivia(_):
        question, right = halves()
        return {"question": question, "answer": {"aliases": [right, right.upper()], "value": right}}

    def webqs(_):
        question, right = halves()
        return {"question": f"{question}?", "answers": [right, halves()[1]]}

    made = {
        "arc_challenge": [arc(i) for i in range(12)],
        "arc_easy": [arc(i) for i in range(16)],
        "sciq": [sciq(i) for i in range(12)],
        "winogrande": [winogrande(i) for i in range(12)],
        "mmlu": [mmlu(i) for i in range(16)],
        "triviaqa": [trivia(i) for i in range(8)],
        "webqs": [webqs(i) for i in range(8)],
        "lambada_openai": [{"text": chance.choice(sentences)} for _ in range(12)],
        "openwebtext2": [{"text": text} for text in world[:8]],
    }
    for task, some in made.items():
        write(folder / f"{task}.jsonl", some)
    return folder


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
