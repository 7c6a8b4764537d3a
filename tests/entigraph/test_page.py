"""The page on EntiGraph, from top to bottom: a small model of our own, behind vLLM's own server,
writes, and learns.

The model is taught how its answers look and nothing else: names that are none of the document's,
questions about nothing, and a letter that the last choice alone decides.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from entigraph.asking import Prompts
from entigraph.library import Text
from entigraph.questions import Article, Question, read_questions, shown
from entigraph.wording import filled
from sbp_jax.data.corpus import verify_corpus
from tests.integration.test_pages import run_page

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(1200)]
PEOPLE = ["Ada", "Bob", "Cleo", "Dov", "Eve", "Finn", "Gus", "Hal", "Ida", "Joe", "Kim", "Lea"]
PEOPLE += ["Max", "Nell", "Otto", "Pia", "Quinn", "Rosa", "Sam", "Tess", "Una", "Vic", "Wim", "Zoe"]
TOWNS = ["Cairo", "Faro", "Oslo", "Lima", "Bern", "Riga", "Pisa", "Graz", "Kobe", "Bonn"]
VERBS = ["met", "saw", "sold", "taught", "left", "wrote", "helped", "feared"]
CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:\n"
WRITER = """
from sbp_jax.config import new_config


def get_config():
    config = new_config()
    config.model.update(
        num_layers=2, d_model=64, num_heads=4, num_kv_heads=2, head_dim=32, d_ff=128,
        vocab_size=768, scan_layers=False,
    )
    config.data.input = "talk.jsonl"
    config.data.sequence_length = 512
    config.train.update(batch_size=8, tokens=80 * 8 * 512, samples=0)
    config.optimizer.update(peak_lr=5e-3, final_lr=5e-4)
    config.eval.update(every_steps=80, max_sequences=8)
    return config
"""
STRUCTURED = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})
# What is small here and large on the page.
SMALL = {
    "--generation-config vllm": "--generation-config vllm --dtype float32 --enforce-eager "
    f"--structured-outputs-config '{STRUCTURED}'",
    "BATCH, CONTEXT, REPLAY = 16, 2048, 0.1": "BATCH, CONTEXT, REPLAY = 2, 512, 0.1",
    "config.entigraph.tokens_per_document = 100_000": "config.entigraph.update("
    'tokens_per_document=80, max_tokens=48, entity_tokens=96, judged=20, prompts="short")',
    "my_library.py:20e6": "my_library.py:8e3",
    "my_library.py:5e6": "my_library.py:2e3",
    "5e6:scores": "2e3:scores",
    "20e6:scores": "8e3:scores",
    "entigraph.benchmark": "entigraph.benchmark --per_window=4 --answer_tokens=200",
    "closed_book,likelihood,open_book,forgetting": "closed_book,likelihood,open_book,forgetting "
    "--samples=2 --answer_tokens=8 --sweep=k=1",
}
METHODS = ("entigraph", "rephrase_medium", "qa", "extractive")


def tale(draw):
    people, towns = draw.sample(PEOPLE, 4), draw.sample(TOWNS, 2)
    told = []
    for _ in range(8):
        one, other = draw.sample(people, 2)
        told.append(f"{one} {draw.choice(VERBS)} {other} in {draw.choice(towns)}.")
    title = f"The tale of {people[0]} and {people[1]}"
    return Text(title, title, "", "", " ".join(told)), [*people, *towns]


def question(draw, people):
    right, *wrong = draw.sample(PEOPLE, 4)
    return {"question": f"Whom did {draw.choice(people)} meet?", "right": right, "wrong": wrong}


def answered(options):
    """Of eight questions one gets the right letter both ways, by luck."""
    return f"Answer: {'AC'[PEOPLE.index(options[-1]) % 2]}."


def conversation(draw):
    text, entities = tale(draw)
    said = {"heading": text.heading, "text": text.text}
    kinds = ["entities", "pair", "qa"] + 2 * ["write_questions"] + 3 * ["answer_with"]
    kind = draw.choice([*kinds, "answer_without", "closed_book"])
    if kind == "entities":
        names = draw.sample(entities, draw.randrange(3, 6))
        answer = json.dumps({"summary": f"{names[0]} is in it.", "entities": names})
    elif kind == "write_questions":
        said["count"] = "4"
        rows = [question(draw, entities[:4]) for _ in range(draw.randrange(3, 6))]
        answer = json.dumps({"questions": rows})
    elif kind in ("pair", "qa"):
        said["entities"] = "\n".join(f"- {name}" for name in draw.sample(entities, 2))
        one, other = draw.sample(entities, 2)
        answer = f"In {text.title} {one} {draw.choice(VERBS)} {other}."
    else:
        row = question(draw, entities[:4])
        options = (row["right"], *row["wrong"])
        said["question"] = shown(Article(text, ()), Question("", row["question"], options, 0))
        answer = "Answer: B." if kind == "answer_without" else answered(options)
        if kind == "closed_book":  # as a base model is asked
            return f"{said['question']}\nThinking: {answer}"
    return f"user: {filled(Prompts().read(kind), said)}\nassistant:\n{answer}"


def write_rows(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture
def folder(tmp_path):
    """What the page needs: documents, general text, and models, both of them the same one."""
    draw = random.Random(0)
    (tmp_path / "my_texts").mkdir()
    for number in range(24):
        text = tale(draw)[0]
        (tmp_path / "my_texts" / f"{number}.txt").write_text(f"{text.title}\n{text.text}")
    write_rows(tmp_path / "general.jsonl", [tale(draw)[0].text for _ in range(60)])
    write_rows(tmp_path / "general_held_out.jsonl", [tale(draw)[0].text for _ in range(20)])
    (tmp_path / "short").mkdir()  # the worked examples do not fit into so short a context
    (tmp_path / "short" / "closed_book.txt").write_text("{question}\nThinking:")
    (tmp_path / "short" / "open_book.txt").write_text("{passages}\n{question}\nThinking:")
    write_rows(tmp_path / "talk.jsonl", [conversation(draw) for _ in range(1000)])
    (tmp_path / "writer.py").write_text(WRITER)
    for command in (
        ["sbp_jax.train", "--config=writer.py", "--workdir=writer"],
        ["sbp_jax.convert", "to-hf", "writer", "exported"],
    ):
        subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, check=True)
    (tmp_path / "exported" / "chat_template.jinja").write_text(CHAT)
    for name in ("Qwen3-0.6B-Base", "Qwen3-4B-Instruct-2507"):
        (tmp_path / name).symlink_to("exported")
    return tmp_path


def read(path):
    return json.loads(Path(path).read_text())


def test_from_documents_to_a_model_and_what_it_knows(folder):
    output = run_page("entigraph.md", folder, SMALL)
    assert "requests      24" in output and "cost          at most" in output  # the dry run
    for method in METHODS:
        manifest = verify_corpus(folder / "texts" / method)
        assert manifest["tokens"] > 20 * 40 and not manifest["counts"]["errors"]
    named = read(folder / "texts/work/entigraph/entities.json")
    assert named["answers"] == 24 and named["of_no_use"] < 12
    asked = read(folder / "questions.jsonl.report.json")
    kept = [q for a in read_questions(str(folder / "questions.jsonl")) for q in a.questions]
    assert 0 < len(kept) == asked["kept"] < asked["written"]
    quality = read(folder / "quality/entigraph/results.json")
    assert quality["documents"] > 12 and quality["factual"]["sentences"] == 20
    before, after = (
        read(folder / "scores" / name / "results.json") for name in ("before", "after")
    )
    tasks = {"closed_book", "likelihood", "likelihood_per_byte", "open_book", "general_text"}
    assert before["tasks"].keys() == after["tasks"].keys() == tasks
    trained = read(folder / "runs/after/summary.json")
    assert trained["tokens"] == 9 * 2 * 512
    found = read(folder / "scores/after/new_without_loss.json")
    assert found["knowledge"] == "closed_book" and "New knowledge without loss" in output
    curve = read(folder / "scores/curve/scaling.json")
    assert curve["tokens_millions"] == [0, 0.002, 0.008]
    assert curve["task"] == "likelihood_per_byte"
