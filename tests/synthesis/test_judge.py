"""What a judge is asked and how its answers are counted, through a real engine: a server on this
machine that knows the toy world, or a model with random weights.
"""

import dataclasses
import json
import random
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbp_jax.config import (
    ApiConfig,
    DataConfig,
    EngineConfig,
    Experiment,
    ModelConfig,
    QualityConfig,
    ToyWorldConfig,
    to_json,
)
from sbp_jax.data.corpus import Document, open_corpus, read_documents, write_corpus
from sbp_jax.data.tokenizer import train_tokenizer
from sbp_jax.data.toyworld import World
from sbp_jax.inference.engine import EngineOpener
from sbp_jax.model.transformer import param_shapes
from sbp_jax.synthesis.judge import Case, corrected, hashes, judge, prompts
from sbp_jax.synthesis.quality import measure
from sbp_jax.synthesis.quality_table import markdown
from sbp_jax.synthesis.toy_grades import calibration, concept_of, corrupted, grade, subject_kept
from sbp_jax.training.checkpoint import save_params

TOYWORLD = ToyWorldConfig(concepts=100)
WORLD = World(TOYWORLD)


class Server(ThreadingHTTPServer):
    """Answers a prompt with what `say(prompt)` returns."""

    daemon_threads = True

    def __init__(self, say):
        self.say, self.prompts = say, []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def config(self):
        url = f"http://127.0.0.1:{self.server_port}/v1"
        return ApiConfig(url=url, model="judge", concurrency=4)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        chat = "messages" in body
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        self.server.prompts.append(prompt)
        text = self.server.say(prompt)
        choice = {"message": {"content": text}} if chat else {"text": text}
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        data = json.dumps({"choices": [choice | {"finish_reason": "stop"}], "usage": usage})
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data.encode())


@pytest.fixture
def serve():
    servers = []

    def start(say):
        servers.append(Server(say))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def texts_of(prompt):
    """The two texts, and whether the question is about facts."""
    form = (
        r"\n(?:FIRST TEXT|SOURCE)\n(.*)\n\n(?:SECOND TEXT|TEXT TO CHECK)\n(.*)\n\n[^\n]*\nAnswer:$"
    )
    d1, d2 = re.search(form, prompt, re.DOTALL).groups()
    return d1, d2, "TEXT TO CHECK" in prompt


def knowing(prompt):
    """The answer of one who knows the world."""
    d1, d2, factual = texts_of(prompt)
    good = grade(WORLD, d2).all_true > 0.5
    if not factual:
        good = int(np.argmax(WORLD.posterior(d1))) == int(np.argmax(WORLD.posterior(d2)))
    return " Yes." if good else " No, it is not."


def experiment(server=None, **quality):
    return Experiment(
        toyworld=TOYWORLD,
        quality=QualityConfig(calibration=20, **quality),
        api=server.config if server else ApiConfig(),
    )


def cases(count=10):
    """Of fresh documents: each after one of its concept, and after one of another."""
    for number in range(count):
        text = WORLD.document("fresh", number)[0].text
        yield Case("synthetic", str(number), text, text)
    known = calibration(TOYWORLD, 20, seed=0)
    for number, q in enumerate(known):
        yield Case("calibration", str(number), q.d1, q.d2, (q.name,), q.right)


def judged(server, folder, **quality):
    e = experiment(server, **quality)
    return judge(e, cases(), EngineOpener("api", e, None, ""), folder)


def test_one_who_knows_is_always_right(serve, tmp_path):
    server = serve(knowing)
    found = judged(server, tmp_path)
    wrong = sum(grade(WORLD, WORLD.document("fresh", i)[0].text).all_true <= 0.5 for i in range(10))
    assert found["groups"]["synthetic"] == {
        "related": {"yes": 10, "no": 0, "unclear": 0, "unanswered": 0},
        "factual": {"yes": 10 - wrong, "no": wrong, "unclear": 0, "unanswered": 0},
    }
    for known in found["calibration"].values():
        assert (known["good"], known["bad"], known["unclear"]) == (10, 10, 0)
        assert known["accuracy"] == 1.0
        assert known["false_positive_rate"] == known["false_negative_rate"] == 0.0


@pytest.mark.parametrize(
    ("answer", "rates"),
    [("yes", (0.5, 0.0, 1.0)), ("**No**", (0.5, 1.0, 0.0)), ("maybe", (None, None, None))],
)
def test_a_judge_that_does_not_look_is_found_out(serve, tmp_path, answer, rates):
    found = judged(serve(lambda prompt: answer), tmp_path)
    for known in found["calibration"].values():
        names = ("accuracy", "false_positive_rate", "false_negative_rate")
        assert tuple(known[name] for name in names) == rates
        assert known["unclear"] == (20 if answer == "maybe" else 0)
        assert corrected(0.3, 100, known) is None
    assert found["groups"]["synthetic"]["related"]["unclear"] == (10 if answer == "maybe" else 0)


def test_no_question_is_asked_twice(serve, tmp_path):
    server = serve(knowing)
    found = judged(server, tmp_path)
    assert len(server.prompts) == 10 * 2 + 2 * 20
    assert judged(server, tmp_path) == found and len(server.prompts) == 60
    assert judged(server, tmp_path / "chat", chat=True) == found


def test_documents_may_hold_what_looks_like_a_place_for_a_document(serve, tmp_path):
    server = serve(knowing)
    e = experiment(server)
    case = Case("synthetic", "0", "first {d2} text", "second {d1} text", ("related",))
    judge(e, [case], EngineOpener("api", e, None, ""), tmp_path)
    assert texts_of(server.prompts[0])[:2] == ("first {d2} text", "second {d1} text")


def test_the_prompts_are_known_by_their_hashes():
    assert prompts().keys() == hashes().keys() == {"related", "factual"}
    assert all(p.count("{d1}") == p.count("{d2}") == 1 for p in prompts().values())
    assert len(set(hashes().values())) == 2


@pytest.mark.slow
def test_a_model_that_has_learnt_nothing_judges_nothing(tmp_path):
    model = ModelConfig(
        num_layers=2, d_model=32, num_heads=2, num_kv_heads=1, head_dim=16, d_ff=64, vocab_size=600
    )
    draw = np.random.default_rng(0)
    shapes = param_shapes(model)
    save_params(
        tmp_path / "run",
        jax.tree.map(lambda x: draw.normal(0.2, 0.2, x.shape).astype(np.float32), shapes),
    )
    e = dataclasses.replace(
        experiment(answer_tokens=4),
        model=model,
        data=DataConfig(sequence_length=1024),
        engine=EngineConfig(batch_size=4),
    )
    (tmp_path / "run" / "config.json").write_text(to_json(e))
    texts = [*prompts().values(), *(case.d2 for case in cases())] * 3
    train_tokenizer(texts, 600, tmp_path / "run" / "tokenizer")
    engine = EngineOpener("jax", e, str(tmp_path / "run"), "")
    some = [case for case in cases(2) if case.group == "synthetic" or int(case.id) < 4]
    found = judge(e, some, engine, tmp_path / "judge")
    counts = found["groups"]["synthetic"]["related"]
    assert sum(counts.values()) == 2
    known = found["calibration"]["factual"]
    assert known["questions"] + known["unclear"] == 4
    assert judge(e, some, engine, tmp_path / "judge") == found


def test_what_is_judged_stands_in_the_table_beside_what_is_exact(serve, tmp_path):
    server = serve(knowing)
    e = dataclasses.replace(
        experiment(server), toyworld=dataclasses.replace(TOYWORLD, documents=60)
    )
    corpus = open_corpus("toyworld", e)
    rows = (
        Document(f"s{i}", WORLD.document("train", i)[0].text, "", f'{{"document": "{d.id}"}}')
        for i, d in enumerate(read_documents(corpus, "stop"))
    )
    write_corpus(rows, tmp_path / "synthetic")
    synthetic = open_corpus(str(tmp_path / "synthetic"), e)
    opener = EngineOpener("api", e, None, "")
    record = measure(e, corpus, synthetic, tmp_path / "q", judge=opener)
    found = record["synthetic"]
    assert found["judged"]["pair_irrelevance"]["value"] == 0.0
    for name in ("pair_irrelevance", "non_factual"):
        judged_, exact = found["judged"][name], found["exact"][name]
        assert judged_["documents"] == 60 and judged_["unclear"] == judged_["unanswered"] == 0
        assert abs(judged_["value"] - exact["value"]) < 0.03
        np.testing.assert_allclose(judged_["corrected"]["value"], judged_["value"])
    assert record["judge"]["prompts"] == hashes() and record["judge"]["model"] == "judge"
    text = markdown(record)
    assert "Judge: api, judge" in text and "Non-factual, judged" in text
    assert re.search(r"\| related .*\| 20 \+ 0 unclear \| 100.0 \| +0.0 \| +0.0 \|", text)
    asked = len(server.prompts)
    (tmp_path / "q" / "quality.json").unlink()
    assert measure(e, corpus, synthetic, tmp_path / "q", judge=opener) == record
    assert len(server.prompts) == asked


@given(
    share=st.floats(0, 1),
    found=st.floats(0.6, 1),
    passed=st.floats(0.6, 1),
)
def test_the_corrected_share_is_the_true_one(share, found, passed):
    said = share * found + (1 - share) * (1 - passed)
    known = {"false_positive_rate": 1 - passed, "false_negative_rate": 1 - found}
    result = corrected(said, 1000, known | {"good": 100, "bad": 100})
    np.testing.assert_allclose(result["value"], share, atol=1e-9)
    assert 0 <= result["stderr"] < 0.5


def test_a_document_is_graded_by_what_its_generator_wrote():
    wrong, kept, grades = [], [], []
    for number in range(2000):
        document, concept, facts = WORLD.document("fresh", number)
        c = WORLD.concepts[concept]
        about = [
            c if f.subject in ("", c.short, c.name) else WORLD.concepts[WORLD.by_name[f.subject]]
            for f in facts
        ]
        wrong.append(
            any(x.attributes[f.attribute] != f.value for x, f in zip(about, facts, strict=True))
        )
        grades.append(grade(WORLD, document.text))
        kept.append(subject_kept(WORLD, concept, document.text))
        assert concept_of(WORLD, document.id, document.text) == concept
        assert concept_of(WORLD, document.id, document.text + "!") is None
    assert all(g.unparsed == 0 for g in grades)
    found = np.array([1 - g.all_true for g in grades])
    assert abs(found.mean() - np.mean(wrong)) < 0.01
    assert np.corrcoef(found, wrong)[0, 1] > 0.98
    assert np.mean(kept) > 0.97


def test_what_is_wrong_unknown_or_about_another_is_noticed():
    draw = random.Random(0)
    world = World(dataclasses.replace(TOYWORLD, noise=0.0, ambiguous=0.0))
    changed = 0
    for number in range(200):
        document, concept, _ = world.document("fresh", number)
        text = document.text
        assert grade(world, text)[:2] == (1.0, 1.0) and subject_kept(world, concept, text) == 1.0
        other = (concept + 1) % len(world.concepts)
        assert subject_kept(world, other, text) == 0.0
        if wrong := corrupted(world, text, draw):
            changed += 1
            assert wrong != text and subject_kept(world, concept, wrong) == 1.0
            assert grade(WORLD, wrong).all_true == 0.0 and 0.5 < grade(world, wrong).accuracy < 1
        assert grade(world, text + " Colourless ideas sleep.").unparsed == 1
    assert changed > 190
    assert subject_kept(world, 0, "Colourless ideas sleep.") == 0.0
    assert np.isnan(grade(world, "Colourless ideas sleep.").all_true)


@given(seed=st.integers(0, 1000), concepts=st.integers(40, 120))
def test_calibration_questions_have_the_answers_that_they_claim(seed, concepts):
    config = ToyWorldConfig(concepts=concepts, seed=seed % 3)
    world = World(config)
    questions = list(calibration(config, 4, seed))
    assert questions == list(calibration(config, 4, seed))
    assert [(q.name, q.right) for q in questions] == [
        (name, right) for name in ("factual", "related") for right in (True, False) * 2
    ]
    for q in questions:
        subjects = [int(np.argmax(world.posterior(text))) for text in (q.d1, q.d2)]
        assert (subjects[0] == subjects[1]) == (q.right or q.name == "factual")
        if q.name == "factual":
            assert world.fact_accuracy(q.d1) == 1.0
            assert world.all_true(q.d2) == float(q.right)
