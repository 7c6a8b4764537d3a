"""The page on EntiGraph, from top to bottom: a small model of our own, behind vLLM's own server,
writes, and learns.

The model is taught how its answers look and nothing else: names that are none of the document's,
questions about nothing, and any letter. Whether a question of its passes the checks is luck, so
those that models are measured by are written here.
"""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from entigraph.evaluation.answers import LETTERS
from entigraph.evaluation.questions import Article, Question, line_of, shown
from entigraph.library import Text
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
    config.train.update(batch_size=4, tokens=120 * 4 * 512, samples=0)
    config.optimizer.update(peak_lr=5e-3, final_lr=5e-4)
    config.eval.update(every_steps=120, max_sequences=8)
    return config
"""
# As config.entigraph.prompts takes them: what so small a model learns to answer in half a minute.
SHORT = {
    "entities": "{heading}\n{text}\nNames?",
    "pair": "{heading}\n{text}\n{entities}\nTogether?",
    "triple": "{heading}\n{text}\n{entities}\nTogether?",
    "rephrase_medium": "{heading}\n{text}\nAgain?",
    "qa": "{heading}\n{text}\nOnce more?",
    "write_questions": "{heading}\n{text}\n{count} questions?",
    "answer_with": "{heading}\n{text}\n{question}\nLetter?",
    "answer_without": "{question}\nLetter?",
    "closed_book": "{question}\nThinking:",
    "open_book": "{passages}\n{question}\nThinking:",
}
STRUCTURED = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})
# What is small here and large on the page.
SMALL = {
    "--generation-config vllm": "--generation-config vllm --dtype float32 --enforce-eager "
    f"--structured-outputs-config '{STRUCTURED}'",
    "BATCH, CONTEXT, REPLAY = 16, 2048, 0.1": "BATCH, CONTEXT, REPLAY = 2, 256, 0.1",
    "config.entigraph.tokens_per_document = 100_000": "config.entigraph.update("
    'tokens_per_document=300, max_tokens=48, entity_tokens=96, judged=20, prompts="short", '
    "temperature=0.5)",
    "my_library.py:20e6": "my_library.py:8e3",
    "my_library.py:5e6": "my_library.py:2e3",
    "5e6:scores": "2e3:scores",
    "20e6:scores": "8e3:scores",
    "entigraph.benchmark": "entigraph.benchmark --per_window=4 --answer_tokens=200",
    "--output=questions.jsonl": "--output=proposed.jsonl || test $? -eq 2",
    "closed_book,likelihood,open_book,forgetting": "closed_book,likelihood,open_book,forgetting "
    "--samples=2 --answer_tokens=8 --sweep=k=1",
}
DOCUMENTS = 12
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


def where_it_begins(draw, text):
    """What somebody who has read the tale knows: a line of a question file."""
    asked = []
    for number, sentence in enumerate(text.text.split(". ")[:2]):
        who, did, whom, _, town = sentence.removesuffix(".").split()
        options = draw.sample([town, *draw.sample([t for t in TOWNS if t != town], 3)], 4)
        words = f"Where was it that {who} {did} {whom}?"
        asked.append(Question(f"{text.title} {number}", words, tuple(options), options.index(town)))
    return line_of(Article(text, tuple(asked)))


def conversation(draw):
    text, entities = tale(draw)
    said = {"heading": text.heading, "text": text.text}
    kinds = ["entities", "entities", "pair", "qa"] + 2 * ["write_questions"] + 2 * ["answer_with"]
    kind = draw.choice([*kinds, "answer_without", "closed_book"])
    if kind == "entities":
        names = draw.sample(entities, draw.randrange(3, 6))
        answer = compact({"summary": f"{names[0]} is in it.", "entities": names})
    elif kind == "write_questions":
        said["count"] = "4"
        rows = [question(draw, entities[:4]) for _ in range(draw.randrange(3, 6))]
        answer = compact({"questions": rows})
    elif kind in ("pair", "qa"):
        said["entities"] = "\n".join(f"- {name}" for name in draw.sample(entities, 2))
        one, other = draw.sample(entities, 2)
        answer = f"In {text.title} {one} {draw.choice(VERBS)} {other}."
    else:
        row = question(draw, entities[:4])
        options = (row["right"], *row["wrong"])
        said["question"] = shown(Article(text, ()), Question("", row["question"], options, 0))
        answer = f"Answer: {draw.choice(LETTERS)}."
        if kind == "closed_book":  # as a base model is asked
            return f"{said['question']}\nThinking: {answer}"
    return f"user: {filled(SHORT[kind], said)}\nassistant:\n{answer}"


def compact(value):
    """As the server holds answers to a schema; with spaces, other tokens would be learnt."""
    return json.dumps(value, separators=(",", ":"))


def write_rows(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture
def folder(tmp_path):
    """What the page needs: documents, general text, and models, both of them the same one."""
    draw = random.Random(0)
    (tmp_path / "my_texts").mkdir()
    tales = {text.title: text for text, _ in (tale(draw) for _ in range(2 * DOCUMENTS))}
    tales = list(tales.values())[:DOCUMENTS]
    for number, text in enumerate(tales):
        (tmp_path / "my_texts" / f"{number}.txt").write_text(f"{text.title}\n{text.text}")
    (tmp_path / "questions.jsonl").write_text("".join(where_it_begins(draw, t) for t in tales))
    write_rows(tmp_path / "general.jsonl", [tale(draw)[0].text for _ in range(60)])
    write_rows(tmp_path / "general_held_out.jsonl", [tale(draw)[0].text for _ in range(20)])
    (tmp_path / "short").mkdir()
    for name, prompt in SHORT.items():
        (tmp_path / "short" / f"{name}.txt").write_text(prompt)
    write_rows(tmp_path / "talk.jsonl", [conversation(draw) for _ in range(1000)])
    (tmp_path / "writer.py").write_text(WRITER)
    for command in (
        ["sbp_jax.train", "--config=writer.py", "--workdir=writer"],
        ["sbp_jax.convert", "to-hf", "writer", "exported"],
    ):
        one_device = os.environ | {"XLA_FLAGS": ""}
        subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, env=one_device, check=True)
    (tmp_path / "exported" / "chat_template.jinja").write_text(CHAT)
    for name in ("Qwen3-0.6B-Base", "Qwen3-4B-Instruct-2507"):
        (tmp_path / name).symlink_to("exported")
    return tmp_path


def read(path):
    return json.loads(Path(path).read_text())


def test_from_documents_to_a_model_and_what_it_knows(folder):
    output = run_page("entigraph.md", folder, SMALL)
    assert f"requests      {DOCUMENTS}" in output and "cost          at most" in output  # dry run
    for method in METHODS:
        verify_corpus(folder / "texts" / method)
        manifest = read(folder / "texts" / method / "manifest.json")
        assert manifest["tokens"] > 257 and not manifest["counts"]["errors"]
    named = read(folder / "texts/work/entigraph/entities.json")
    assert named["answers"] == DOCUMENTS and named["of_no_use"] < DOCUMENTS
    assert int(re.search(r"written +(\d+)", output)[1]) > 0 and "not answerable with" in output
    quality = read(folder / "quality/entigraph/results.json")
    assert quality["documents"] > 1 and quality["factual"]["sentences"] == 20
    before, after = (
        read(folder / "scores" / name / "results.json") for name in ("before", "after")
    )
    tasks = {"closed_book", "likelihood", "likelihood_per_byte", "open_book", "general_text"}
    assert before["tasks"].keys() == after["tasks"].keys() == tasks
    trained = read(folder / "runs/after/summary.json")
    assert trained["tokens"] == 17 * 2 * 256
    found = read(folder / "scores/after/new_without_loss.json")
    assert found["knowledge"] == "closed_book" and "New knowledge without loss" in output
    curve = read(folder / "scores/curve/scaling.json")
    assert curve["tokens_millions"] == [0, 0.002, 0.008]
    assert curve["task"] == "likelihood_per_byte"
