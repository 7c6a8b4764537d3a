"""Retrieval on passages that are made so that the right order is known, and the open book through
the command and a scripted server.
"""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entigraph.evaluation.asking import Prompts
from entigraph.evaluation.open_book import TOP, OpenBook, Point, parse_sweep
from entigraph.evaluation.questions import line_of, read_questions, split
from entigraph.evaluation.reranking import _mark
from entigraph.evaluation.retrieval import open_embedder, passages, recall, search
from entigraph.library import Text
from sbp_jax.config import Experiment, PairingConfig
from sbp_jax.errors import UserError
from tests.entigraph.conftest import text

ROOT = Path(__file__).parents[3]
WORDS = [
    f"{a}{b}" for a in "bdfgklmnprst" for b in ("ando", "irel", "umok", "esti", "oval", "yrna")
]


def tale(number):
    """Words of its own, and some that all have."""
    own = WORDS[4 * number : 4 * number + 4]
    body = " ".join(f"the {own[i % 4]} went to the {own[(i + 1) % 4]} again" for i in range(40))
    return Text(f"id{number}", f"Tale {number}", "A. Writer", "1950", body)


@pytest.fixture
def questions(tmp_path):
    from entigraph.evaluation.questions import Article, Question

    articles = []
    for number in range(10):
        own = WORDS[4 * number : 4 * number + 4]
        asked = [
            Question(f"{number}-{n}", f"Where went the {own[n]}?", tuple(own), (n + 1) % 4)
            for n in range(2)
        ]
        articles.append(Article(tale(number), tuple(asked)))
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(map(line_of, articles)))
    return path


def test_passages_are_cut_without_overlap_and_headed():
    texts = [tale(0), tale(1)]
    made = passages(texts, 256)
    heading = '"Tale 0", by A. Writer (1950)\n'
    own = [p.text.removeprefix(heading) for p in made if p.article == "id0"]
    assert all(p.text.startswith(f'"Tale {p.article[2:]}"') for p in made)
    assert "".join(own).replace(" ", "") == texts[0].text.replace(" ", "")
    assert max(map(len, own)) <= 256 and len(own) == -(-len(texts[0].text) // 256)
    assert passages([dataclasses.replace(texts[0], text="  ")], 256) == []


@pytest.mark.parametrize("index", ["jax", "faiss"])
def test_search_is_exact_by_either_index(index):
    draw = np.random.default_rng(0)
    vectors, queries = (draw.normal(size=(n, 16)).astype(np.float32) for n in (500, 40))
    vectors[100] = vectors[7]  # equal scores are in the order of the vectors
    scores = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    expected = np.argsort(-scores.astype(np.float32), axis=1, kind="stable")[:, :20]
    assert (search(queries, vectors, 20, index) == expected).all()
    assert search(queries, vectors[:5], 20, index).shape == (40, 5)


def test_recall_counts_a_passage_of_the_right_article():
    ranked = [["a", "b", "c"], ["b", "b", "a"], ["c", "c", "c"]]
    found = [recall(ranked, ["a", "a", "b"], k) for k in (1, 2, 3)]
    assert found == pytest.approx([1 / 3, 1 / 3, 2 / 3])


def test_lexical_embeddings_find_the_article_that_has_the_words():
    made = passages([tale(number) for number in range(10)], 256)
    embedder = open_embedder(Experiment(), None)
    vectors = embedder.passages([p.text for p in made])
    queries = embedder.queries([" ".join(WORDS[4 * n : 4 * n + 4]) for n in range(10)])
    found = search(queries, vectors, 4)
    lists = [[made[i].article for i in row] for row in found]
    assert recall(lists, [f"id{n}" for n in range(10)], 1) == 1.0
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_an_embedder_without_a_model_says_so():
    with pytest.raises(UserError, match="--checkpoint is missing"):
        open_embedder(Experiment(pairing=PairingConfig(embedder="self")), None)


def test_sweeps_are_products_of_their_fields():
    points = parse_sweep("chunk=256+512, k=1+4+8 ,order=first+last,temperature=0.1+0.3")
    assert len(set(points)) == len(points) == 24 and points[0] == Point(256, 1, "first", 0.1)
    assert parse_sweep("") == [Point()] and parse_sweep("k=4+4") == [Point(k=4)]


@pytest.mark.parametrize(
    "wrong",
    ["k", "k=1,k=2", "size=3", "k=x", f"k={TOP + 1}", "order=middle", "chunk=0", "temperature=-1"],
)
def test_a_wrong_sweep_is_explained(wrong):
    with pytest.raises(UserError, match="chunk=256\\+512\\+1024"):
        parse_sweep(wrong)


@given(st.text(max_size=20))
def test_any_text_is_a_mark(answer):
    assert 0 <= _mark(answer) <= 10


def test_marks_are_the_first_number():
    assert [_mark(x) for x in ("7", " 10.", "Number: 3 of 10", "none", "99")] == [7, 10, 3, 0, 10]


def book(folder, articles, rerank=None, index="jax"):
    library = [article.text for article in articles]
    return OpenBook(
        library, folder, None, Prompts(), open_embedder(Experiment(), None), index, rerank,
        {"rerank": bool(rerank)}, 1, 50, (), 0,
    )  # fmt: skip


def test_a_reranker_orders_the_top_and_is_not_asked_again(tmp_path, questions):
    articles = split(read_questions(str(questions)), "validation")
    calls = []

    def worst_first(name, ids, asked, found):
        calls.append(name)
        assert all(q.startswith("Text:") for q in asked) and len(ids) == len(found) == 4
        return np.tile(np.arange(len(found[0])), (len(found), 1))

    plain = book(tmp_path, articles).ranked("validation", articles, 256)
    made = book(tmp_path, articles, worst_first)
    turned = made.ranked("validation", articles, 256)
    assert (turned.numbers == plain.numbers[:, ::-1]).all()
    assert (made.ranked("validation", articles, 256).numbers == turned.numbers).all()
    assert len(calls) == 1
    assert [p.article for p in plain.of(0, 2)] == [articles[0].text.id] * 2


def evaluate(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "entigraph.evaluate", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_choice_is_made_on_validation_and_the_test_is_touched_once(serve, tmp_path, questions):
    """A reader that finds the answer only where the best passage is last, and k is 2."""
    prompts = []

    def script(sent):
        body = sent.prompt
        prompts.append(body)
        own = body[body.rindex("Passages:") :]
        numbers = re.findall(r"^\[(\d+)\] \"Tale (\d+)\"", own, re.MULTILINE)
        tale_asked, last = re.findall(r'"Tale (\d+)"', own)[-1], numbers[-1][1]
        word = re.findall(r"Where went the (\w+)\?", own)[-1]
        options = re.findall(r"^([A-D])\. (\w+)$", own, re.MULTILINE)[-4:]
        place = [option for _, option in options].index(word)
        right = options[(place + 1) % 4][0]
        knows = len(numbers) == 2 and last == tale_asked
        return text(f"Answer: {right if knows else 'none'}")

    server = serve(script)
    (tmp_path / "config.py").write_text(
        "from sbp_jax.config import new_config\n\n\ndef get_config():\n    config = new_config()\n"
        f"    config.api.url = {server.url!r}\n    config.api.model = 'm'\n    return config\n"
    )
    flags = [f"--config={tmp_path}/config.py", "--engine=api", f"--questions={questions}"]
    flags += ["--mode=open_book", "--samples=1", f"--output={tmp_path}/w"]
    done = evaluate(*flags, "--sweep=chunk=4096,k=1+2,order=first+last")
    assert done.returncode == 0, done.stderr
    recorded = json.loads((tmp_path / "w" / "results.json").read_text())
    entry = recorded["tasks"]["open_book"]
    found = entry["open_book"]
    assert found["chosen"] == {"chunk": 4096, "k": 2, "order": "last", "temperature": 0.1}
    # An article is one passage, so the second one is another's.
    tried = {(p["k"], p["order"]): p["accuracy"] for p in found["validation"]}
    assert tried == {(1, "first"): 0, (1, "last"): 0, (2, "first"): 0, (2, "last"): 1}
    assert found["recall"]["1"] == found["recall"]["128"] == 1.0
    assert entry["metrics"]["accuracy"]["value"] == 1.0 and entry["questions"] == 16
    asked = [re.findall(r'Text: "Tale (\d+)"', prompt)[-1] for prompt in prompts]
    on_test = [number for number in asked if int(number) >= 2]
    assert len(on_test) == 16 and len(asked) == 16 + 4 * 4
    again = evaluate(*flags, "--sweep=chunk=4096,k=1")
    assert again.returncode == 2
    assert "test split has been answered with another choice" in again.stderr
    assert len(prompts) == 32


@pytest.mark.slow
def test_a_cross_encoder_and_a_model_rerank(tmp_path, questions):
    """Random weights: what is tested is that scores are those of the model, pair by pair."""
    import torch
    import transformers

    from entigraph.evaluation.reranking import by_cross_encoder

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "the", "went", "to"]
    (tmp_path / "ce").mkdir()
    (tmp_path / "ce" / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = transformers.BertTokenizer(str(tmp_path / "ce" / "vocab.txt"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, num_labels=1,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "ce")
    tokenizer.save_pretrained(tmp_path / "ce")
    queries = ["the bando", "went to direl"]
    found = [["the bando went", "direl", "to the fando"], ["bando", "to direl the", "the"]]
    scores = by_cross_encoder(str(tmp_path / "ce"), queries, found)
    for query, texts, row in zip(queries, found, scores, strict=True):
        for passage, score in zip(texts, row, strict=True):
            with torch.inference_mode():
                alone = model(**tokenizer(query, passage, return_tensors="pt")).logits[0, 0]
            np.testing.assert_allclose(score, float(alone), atol=1e-5)
    with pytest.raises(UserError, match="no such folder of a cross-encoder"):
        by_cross_encoder(str(tmp_path / "none"), queries, found)
