"""The whole generation against a scripted server, whatever that answers or refuses."""

import dataclasses
import json
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from entigraph.generation.generator import Generator, estimated, extractive, generator
from entigraph.generation.stages import Limits, generate
from entigraph.library import Text
from sbp_jax.config import ApiConfig, EntiGraphConfig, Experiment
from sbp_jax.data.corpus import open_corpus, read_documents, verify_corpus
from sbp_jax.errors import UserError
from sbp_jax.inference.bulk import BudgetSpent

ROOT = Path(__file__).parents[2]
CONFIG = EntiGraphConfig(max_triples=2, max_tokens=60, entity_tokens=80)
LIBRARY = [
    Text("one", "Dawn", "Ann Lee", "1954", "Ada met Bob in Cairo. Bob sold Ada a lamp.\n" * 3),
    Text("two", "Dusk", "", "", "Dora lost Eve in Faro. Eve wrote to Dora. Gus was there."),
    Text("three", "Noon", "", "", "Nothing happened."),
]
EDEN = Text("four", "Eden", "", "", "Hal saw Ida, Joe, Kim, Lea and Max in Eden.")
FOUND = {
    "Eden": ["Hal", "Ida", "Joe", "Kim", "Lea", "Max"],
    "Dawn": ["Ada", "the Bob", "bob", "Cairo", "ADA"],
    "Dusk": ["Dora", "Eve", "Faro", "Gus"],
    "Noon": ["Nothing"],
}


def answer(prompt):
    """What a model might say: a function of the prompt."""
    title = re.search(r'DOCUMENT: "(\w+)"', prompt)[1]
    if "JSON" in prompt:
        return json.dumps({"summary": "s", "entities": FOUND[title]})
    draw = random.Random(prompt)
    return f"{title}: " + " ".join(draw.choice("abcdefgh") for _ in range(draw.randrange(5, 30)))


def reply(sent, content=None, finish="stop"):
    content = content or answer(sent.body["messages"][0]["content"])
    message = {"role": "assistant", "content": content}
    return {
        "choices": [{"message": message, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": len(sent.prompt) // 2, "completion_tokens": len(content.split()),
        },
    }  # fmt: skip


class Writer:
    """A scripted server as the generator of an experiment."""

    def __init__(self, serve, script=None, **fields):
        self.server = serve(script or reply)
        api = {"url": self.server.url, "model": "m", "concurrency": 4, "output_price": 1e6}
        api = ApiConfig(**api)
        self.experiment = Experiment(api=api, entigraph=dataclasses.replace(CONFIG, **fields))

    @property
    def prompts(self):
        return self.server.prompts

    def run(self, folder, method="entigraph", texts=LIBRARY, limits=None, **fields):
        config = dataclasses.replace(self.experiment.entigraph, **fields)
        experiment = dataclasses.replace(self.experiment, entigraph=config)
        writer = generator("api", experiment, None, folder)
        return generate(experiment, texts, folder, method, writer, limits)


@pytest.fixture
def writer(serve):
    return lambda script=None, **fields: Writer(serve, script, **fields)


def rows(folder):
    found = read_documents(open_corpus(str(folder), Experiment()), "stop")
    return [(json.loads(document.meta), document.text) for document in found]


def content(folder):
    """The bytes of a corpus."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


class TestEntiGraph:
    def test_each_text_says_where_it_is_from(self, writer, tmp_path):
        w = writer()
        manifest = w.run(tmp_path)
        verify_corpus(tmp_path / "entigraph")
        found = rows(tmp_path / "entigraph")
        assert manifest["counts"] == {"errors": 0, "kept": 12, "unfinished": 0}
        by = {}
        for meta, text in found:
            by.setdefault(meta["document"], []).append(meta)
            assert meta["method"] == "entigraph" and meta["model"] == "m"
            assert text.startswith({"one": "Dawn", "two": "Dusk"}[meta["document"]])
        assert {id: [len(m["entities"]) for m in metas] for id, metas in by.items()} == {
            "one": [2, 2, 2, 3],
            "two": [2] * 6 + [3] * 2,
        }
        assert {e for m in by["one"] for e in m["entities"]} == {"Ada", "the Bob", "Cairo"}
        assert [m["number"] for m in by["two"]] == list(range(8))
        assert len({m["prompt"] for m in by["two"]}) == 2
        assert sum(meta["tokens"] for meta, _ in found) == manifest["tokens"]
        record = json.loads((tmp_path / "work/entigraph/entities.json").read_text())
        assert record["entities"]["three"] == ["Nothing"]
        assert len(w.prompts) == 3 + 12

    def test_a_document_is_the_beginning_that_its_requests_share(self, writer, tmp_path):
        w = writer()
        w.run(tmp_path)
        shared = f"DOCUMENT: {LIBRARY[0].heading}\n\n{LIBRARY[0].text}"
        assert sum(prompt.startswith(shared) for prompt in w.prompts) == 5
        assert [p for p in w.prompts if "- Ada\n- Cairo" in p or "- Cairo\n- Ada" in p]

    def test_long_documents_are_windowed_and_their_entities_merged(self, writer, tmp_path):
        def script(sent):
            prompt = sent.prompt
            if "JSON" not in prompt:
                return reply(sent)
            names = ["Ada", "Bob"] if "Ada" in prompt else ["BOB", "Zoe"]
            return reply(sent, json.dumps({"summary": "", "entities": names}))

        w = writer(script, window=60)
        long = Text(
            "long", "Dawn", "", "", "Ada met Bob. " * 5 + "So it was. " * 20 + "Zoe left Bob. " * 5
        )
        w.run(tmp_path, texts=[long], max_triples=0)
        record = json.loads((tmp_path / "work/entigraph/entities.json").read_text())
        assert record["answers"] > 1 and record["entities"] == {"long": ["Ada", "Bob", "Zoe"]}
        texts = [p for p in w.prompts if "JSON" not in p]
        assert len(texts) == 3
        both = next(p for p in texts if "- Ada" in p and "- Zoe" in p)
        assert "Ada met" in both and "Zoe left" in both and "[...]" in both

    def test_malformed_entities_are_counted_and_the_rest_goes_on(self, writer, tmp_path):
        def script(sent):
            title = re.search(r'DOCUMENT: "(\w+)"', sent.body["messages"][0]["content"])[1]
            bad = title == "Dusk" and "JSON" in sent.prompt
            return reply(sent, "no JSON at all, sorry" if bad else None)

        w = writer(script)
        w.run(tmp_path)
        record = json.loads((tmp_path / "work/entigraph/entities.json").read_text())
        assert record["of_no_use"] == 1 and record["entities"]["two"] == []
        assert {meta["document"] for meta, _ in rows(tmp_path / "entigraph")} == {"one"}

    def test_no_entities_at_all_are_the_users_to_mend(self, writer, tmp_path):
        w = writer(lambda sent: reply(sent, '{"summary": "", "entities": ["One"]}'))
        with pytest.raises(UserError, match="no document has two entities"):
            w.run(tmp_path)

    def test_a_storm_of_429_changes_nothing(self, writer, tmp_path):
        expected = writer()
        expected.run(tmp_path / "expected")
        seen, lock = set(), threading.Lock()

        def script(sent):
            with lock:
                first = sent.prompt not in seen
                seen.add(sent.prompt)
            if first:
                return 429, {"error": {"message": "slow down"}}, {"retry-after": "0.01"}
            return reply(sent)

        w = writer(script)
        w.run(tmp_path / "out")
        assert rows(tmp_path / "out/entigraph") == rows(tmp_path / "expected/entigraph")
        assert len(w.prompts) == 2 * 15


class TestBudgets:
    def test_a_document_gets_its_tokens_and_no_text_more(self, writer, tmp_path):
        w = writer()
        everything = w.run(tmp_path / "all", max_triples=1000)
        w.run(tmp_path / "out", tokens_per_document=50, max_triples=1000)
        assert everything["tokens"] > 150
        whole, some = rows(tmp_path / "all/entigraph"), rows(tmp_path / "out/entigraph")
        for id in ("one", "two"):
            of = [meta for meta, _ in some if meta["document"] == id]
            assert [m["number"] for m in of] == list(range(len(of)))
            assert sum(m["tokens"] for m in of) >= min(50, _tokens(whole, id))
            assert sum(m["tokens"] for m in of[:-1]) < 50
        texts = [text for _, text in whole]
        assert [text for _, text in some] == [text for text in texts if text in dict(_by(some))]

    def test_a_stop_by_tokens_goes_on_with_more_and_asks_for_nothing_twice(self, writer, tmp_path):
        w = writer()
        texts = [*LIBRARY, EDEN]
        w.run(tmp_path / "expected", texts=texts)
        asked = len(w.prompts)
        for limit, stage, least in (
            (100, "entities", 0),
            (8_000, "texts", 8),
            (10_000, "texts", 18),
        ):
            with pytest.raises(BudgetSpent, match=f"{stage}, .*the next request might pass it"):
                w.run(tmp_path / "out", texts=texts, limits=Limits(max_tokens=limit))
            assert not (tmp_path / "out/entigraph").exists()
            new = w.prompts[asked:]
            tokens = sum(len(p) // 2 + len(answer(p).split()) for p in new)
            assert len(new) >= least and tokens <= limit
        w.run(tmp_path / "out", texts=texts)
        assert len(w.prompts) == 2 * asked
        assert content(tmp_path / "out/entigraph") == content(tmp_path / "expected/entigraph")

    def test_a_cost_is_of_all_stages(self, writer, tmp_path):
        w = writer()
        with pytest.raises(BudgetSpent, match="max_cost"):
            w.run(tmp_path, texts=[*LIBRARY, EDEN], limits=Limits(max_cost=330))
        spent = sum(len(answer(p).split()) for p in w.prompts)
        assert 8 < len(w.prompts) < 33 and 200 < spent <= 330

    def test_unfinished_texts_are_counted_and_left_out_if_one_says_so(self, writer, tmp_path):
        def script(sent):
            long = "JSON" not in sent.prompt and random.Random(sent.prompt).random() < 0.5
            return reply(sent, finish="length" if long else "stop")

        w = writer(script)
        kept = w.run(tmp_path)["counts"]
        assert 0 < kept["unfinished"] < 12 and kept["kept"] == 12
        asked = len(w.prompts)
        dropped = w.run(tmp_path, keep_unfinished=False)["counts"]
        assert dropped["kept"] == 12 - kept["unfinished"] == 12 - dropped["unfinished_left_out"]
        assert len(w.prompts) == asked

    def test_rephrasings_go_on_until_there_are_enough(self, writer, tmp_path, caplog):
        w = writer()
        caplog.set_level("INFO")
        assert w.run(tmp_path, "rephrase_hard", samples=2)["counts"]["kept"] == 6
        more = w.run(tmp_path, "rephrase_hard", tokens_per_document=100)
        assert more["counts"]["kept"] > 6
        tokens = {text.id: _tokens(rows(tmp_path / "rephrase_hard"), text.id) for text in LIBRARY}
        assert all(100 <= n < 160 for n in tokens.values())
        assert {tuple(m["entities"]) for m, _ in rows(tmp_path / "rephrase_hard")} == {()}
        assert "for 100 tokens a document" in caplog.text
        assert "the job has changed" not in caplog.text  # rounds are one job
        w.run(tmp_path, "rephrase_hard", tokens_per_document=100, temperature=0.5)
        assert "the job has changed" in caplog.text


def _tokens(found, id):
    return sum(meta["tokens"] for meta, _ in found if meta["document"] == id)


def _by(found):
    return [(text, meta) for meta, text in found]


class TestChanges:
    def test_another_prompt_is_asked_again_alone(self, writer, tmp_path):
        w = writer()
        w.run(tmp_path / "out")
        before = rows(tmp_path / "out/entigraph")
        asked = len(w.prompts)
        (tmp_path / "own").mkdir()
        (tmp_path / "own/triple.txt").write_text("DOCUMENT: {heading}\n{text}\nOn {entities}, {x}")
        w.run(tmp_path / "out", prompts=str(tmp_path / "own"))
        new = w.prompts[asked:]
        assert len(new) == 3 and all(p.endswith(", {x}") for p in new)
        after = rows(tmp_path / "out/entigraph")
        assert [m for m in before if "3" not in str(len(m[0]["entities"]))] == [
            m for m in after if len(m[0]["entities"]) == 2
        ]
        w.run(tmp_path / "out")
        assert len(w.prompts) == asked + 3 and rows(tmp_path / "out/entigraph") == before

    def test_another_document_is_asked_for_alone(self, writer, tmp_path):
        w = writer()
        w.run(tmp_path, texts=LIBRARY[1:])
        asked = len(w.prompts)
        w.run(tmp_path)
        assert len(w.prompts) == asked + 1 + 4

    def test_a_finished_run_asks_nothing_and_writes_nothing(self, writer, tmp_path):
        w = writer()
        w.run(tmp_path)
        times = {p: p.stat().st_mtime_ns for p in (tmp_path / "entigraph").iterdir()}
        asked = len(w.prompts)
        w.run(tmp_path)
        assert len(w.prompts) == asked
        assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "entigraph").iterdir()}

    def test_another_corpus_is_not_written_over(self, writer, tmp_path):
        w = writer()
        w.run(tmp_path / "a")
        shutil.copytree(tmp_path / "a/work/entigraph/texts", tmp_path / "b/entigraph")
        with pytest.raises(UserError, match="holds something else"):
            w.run(tmp_path / "b")

    def test_prompts_without_a_place_for_the_document_are_refused(self, writer, tmp_path):
        (tmp_path / "pair.txt").write_text("{text} only")
        w = writer()
        with pytest.raises(UserError, match="pair.txt: no {entities} in it"):
            w.run(tmp_path / "out", prompts=str(tmp_path))
        with pytest.raises(UserError, match="is no folder"):
            w.run(tmp_path / "out", prompts=str(tmp_path / "none"))
        assert w.prompts == []


class TestExtractive:
    def make(self, folder, **fields):
        config = dataclasses.replace(CONFIG, max_tokens=500, **fields)
        experiment = Experiment(entigraph=config)
        return generate(experiment, LIBRARY[:2], folder, "extractive", extractive())

    def test_the_same_bytes_again_out_of_the_documents_own_sentences(self, tmp_path):
        manifest = self.make(tmp_path / "a")
        self.make(tmp_path / "b")
        assert content(tmp_path / "a/extractive") == content(tmp_path / "b/extractive")
        found = rows(tmp_path / "a/extractive")
        assert manifest["counts"]["kept"] == len(found) > 10
        for meta, text in found:
            source = next(t.text for t in LIBRARY if t.id == meta["document"])
            for paragraph in text.split("\n\n")[1:]:
                said = paragraph.split(": ", 1)[1]
                assert all(s.strip(".") in source for s in re.split(r"(?<=\.) ", said))
        of = {tuple(sorted(m["entities"])): text for m, text in found if len(m["entities"]) == 2}
        both = of[("Ada", "Bob")]
        assert "Ada and Bob" in both or "Bob and Ada" in both
        assert "Bob sold Ada a lamp." in both

    def test_it_has_the_same_budget(self, tmp_path):
        self.make(tmp_path, tokens_per_document=200)
        found = rows(tmp_path / "extractive")
        for id in ("one", "two"):
            assert 200 <= _tokens(found, id) < 400


def command(*flags, **kwargs):
    arguments = [sys.executable, "-m", "entigraph.generate", "--config=configs/laptop.py", *flags]
    return subprocess.Popen(
        arguments, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs
    )


def done(*flags):
    process = command(*flags)
    output, errors = process.communicate(timeout=600)
    return process.returncode, output, errors


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps(vars(text)) + "\n" for text in [*LIBRARY, EDEN]))
    return path


def api_flags(w, documents, output):
    c, api = w.experiment.entigraph, w.experiment.api
    fields = {
        f"entigraph.{n}": getattr(c, n) for n in ("max_triples", "max_tokens", "entity_tokens")
    }
    fields |= {f"api.{name}": getattr(api, name) for name in ("url", "model", "concurrency")}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return [f"--input={documents}", f"--output={output}", "--engine=api", *flags]


class TestCommand:
    @pytest.mark.slow
    def test_a_kill_at_any_moment_and_a_rerun_leave_the_same_bytes(
        self, writer, documents, tmp_path
    ):
        fast = threading.Event()

        def script(sent):
            if not fast.is_set():
                time.sleep(0.05)
            return reply(sent)

        w = writer(script)
        flags = api_flags(w, documents, tmp_path / "out")
        draw = random.Random(1)
        for after in (draw.randrange(1, 5), draw.randrange(12, 25)):
            process = command(*flags)
            while len(w.prompts) < after and process.poll() is None:
                time.sleep(0.005)
            process.kill()
            process.communicate()
        fast.set()
        code, _, errors = done(*flags)
        assert code == 0, errors
        requests = 4 + 12 + 17
        assert requests <= len(w.prompts) <= requests + 2 * w.experiment.api.concurrency
        w.run(tmp_path / "expected", texts=[*LIBRARY, EDEN])
        assert content(tmp_path / "out/entigraph") == content(tmp_path / "expected/entigraph")

    def test_a_dry_run_spends_nothing_and_a_limit_is_exit_3(self, writer, documents, tmp_path):
        w = writer()
        flags = api_flags(w, documents, tmp_path / "out")
        code, output, errors = done(*flags, "--dry_run")
        assert code == 0, errors
        assert w.prompts == [] and not (tmp_path / "out").exists()
        assert "entities\n  requests      4\n" in output and "found without a model" in output
        code, _, errors = done(*flags, "--max_tokens=8000")
        assert code == 3 and "--max_tokens=" in errors, errors
        code, output, errors = done(*flags, "--dry_run")
        assert "texts\n  requests      29\n" in output and "so far" in output, output + errors

    def test_mistakes_are_one_line(self, documents, tmp_path):
        output = f"--output={tmp_path / 'out'}"
        for expected, flags in (
            ("--method=qa needs a model", [f"--input={documents}", output, "--method=qa"]),
            (
                "--method=extractive asks no model",
                [f"--input={documents}", output, "--method=extractive", "--engine=jax"],
            ),
            ("no price|nothing has a price", [
                f"--input={documents}", output, "--method=extractive", "--max_cost=1"]),
            ("lies in the input folder", [
                f"--input={tmp_path}", output, "--method=extractive"]),
            ("--input is missing", [output]),
        ):  # fmt: skip
            code, _, errors = done(*flags)
            assert code == 2 and re.search(expected, errors), errors
            assert "Traceback" not in errors and not (tmp_path / "out").exists()


def test_a_context_too_small_for_answers_is_refused(tmp_path):
    small = Generator("m", "f", lambda: None, "text", estimated, context=300)
    with pytest.raises(UserError, match="leave no room for a document in a context of 300"):
        generate(Experiment(), LIBRARY, tmp_path, "qa", small)
