"""The figures of synthetic corpora that are known by hand, and the judge's verdicts."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from entigraph.generation.measures import Synthetic, measure, table
from entigraph.generation.truth import calibration, verdict
from entigraph.library import Text
from sbp_jax.config import ApiConfig, EntiGraphConfig, Experiment, QualityConfig
from sbp_jax.data.corpus import Document, write_corpus
from sbp_jax.inference.engine import EngineOpener

ROOT = Path(__file__).parents[2]
WORDS = "one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
SOURCE = [
    Text("a", "A", "", "", " ".join(WORDS[:8]) + ". So Ada met Bob. There Ada left Bob and Cleo."),
    Text("b", "B", "", "", "Dora saw Eve. So Dora and Eve were there."),
]
EXPERIMENT = Experiment(quality=QualityConfig(samples=100))


def figures(tmp_path, texts, **kwargs):
    made = [Synthetic(id, text, len(text)) for id, text in texts]
    e = kwargs.pop("e", EXPERIMENT)
    return measure(e, made, SOURCE, tmp_path / "out", **kwargs)


def test_overlap_is_with_the_own_document(tmp_path):
    found = figures(tmp_path, [("a", "one two three four nine"), ("b", "one two three four nine")])
    assert found["overlap_2"]["value"] == pytest.approx((3 / 4 + 0) / 2)
    assert found["overlap_4"]["value"] == pytest.approx((1 / 2 + 0) / 2)
    assert found["overlap_8"]["value"] is None
    assert found["tokens"] == 46 and found["words"]["value"] == 5
    assert json.loads((tmp_path / "out/results.json").read_text()) == found
    assert (tmp_path / "out/overlap.png").read_bytes().startswith(b"\x89PNG")


def test_copies_are_similar_and_not_distinct(tmp_path):
    alike = figures(tmp_path, [("a", " ".join(WORDS[:6]))] * 4)
    assert alike["self_similarity"]["value"] == 1 and alike["distinct_2"] == 5 / 20
    other = figures(tmp_path, [("a", " ".join(WORDS[:6])), ("a", " ".join(WORDS[6:]))])
    assert other["self_similarity"]["value"] == 0 and other["distinct_2"] == 1


def test_coverage_counts_the_documents_entities_and_pairs(tmp_path):
    texts = [("b", "Dora alone."), ("b", "Eve alone, and there.")]
    apart, nothing = figures(tmp_path, texts), figures(tmp_path, [("a", "nothing at all")])
    together = figures(tmp_path, [("b", "Dora and Eve, who saw them there.")])
    assert 0 < apart["entity_coverage"]["value"] == together["entity_coverage"]["value"]
    assert together["pair_coverage"]["value"] > apart["pair_coverage"]["value"]
    assert nothing["entity_coverage"]["value"] == 0


def test_questions_are_found_in_texts_and_those_of_the_source_are_told_apart(tmp_path):
    questions = [" ".join(WORDS[:8]), " ".join(WORDS[4:]) + "?", "Who was it?", " ".join(WORDS)]
    texts = [
        ("a", "He asked: " + " ".join(WORDS[4:])),
        ("a", "One two, three; " + " ".join(WORDS[3:8])),
    ]
    found = figures(tmp_path, texts, questions=questions)["contamination"]
    assert found["questions"] == 4 and found["too_short"] == 1
    assert found["contaminated"]["value"] == 2 / 4
    assert (found["in_source"], found["not_from_source"]) == (1, 1)


def test_a_sample_is_the_same_again(tmp_path):
    e = dataclasses.replace(EXPERIMENT, quality=QualityConfig(samples=3))
    texts = [("a", f"text number {i} " + "of many " * i) for i in range(20)]
    found = figures(tmp_path, texts, e=e)
    assert found["measured"] == 3 and found["texts"] == 20
    assert found == figures(tmp_path / "again", texts, e=e)


def test_the_judge_sees_the_document_and_its_share_has_an_interval(serve, tmp_path):
    def script(sent):
        prompt = sent.prompt
        assert SOURCE[0].text in prompt
        said = prompt.split("this document:\n")[1].split("\n")[0]
        answer = {"Ada": "Yes, it is.", "Bob": "no", "Eve": "Who knows?"}[said.split()[0]]
        message = {"role": "assistant", "content": answer}
        return {"choices": [{"message": message, "finish_reason": "stop"}]}

    server = serve(script)
    e = dataclasses.replace(
        EXPERIMENT,
        api=ApiConfig(url=server.url, model="m"),
        entigraph=EntiGraphConfig(judged=50),
        quality=QualityConfig(samples=100, calibration=0),
    )
    texts = [("a", f"Ada met {n} of the {{text}}. Too short. Bob met {n} of them.") for n in "ABC"]
    texts.append(("a", "Eve met nobody of them. # Heading of a text\n## One of five whole words"))
    judge = EngineOpener("api", e, None, "")
    found = figures(tmp_path, texts, e=e, judge=judge)["factual"]
    assert found["sentences"] == 7 and found["unclear"] == 1
    assert found["share"]["value"] == 0.5 and found["share"]["low"] < 0.5 < found["share"]["high"]
    assert found["calibration"]["questions"] == 0 and found["corrected"] is None
    assert len(found["false"]) == 3 and all(said.startswith("Bob") for said in found["false"])
    asked = len(server.seen)
    figures(tmp_path, texts, e=e, judge=judge)
    assert len(server.seen) == asked


def test_sentences_of_known_truth_are_the_librarys_and_those_with_a_strange_name():
    library = [
        Text(f"{n}", f"T{n}", "", "", " ".join(f"One day {a} met {b} in the town." for a in some
                                               for b in some if a != b))
        for n, some in enumerate((["Ada", "Bob", "Cleo"], ["Dora", "Eve", "Finn"], ["it", "she"]))
    ]  # fmt: skip
    found = list(calibration(library, seed=0))
    assert [right for *_, right in found[:6]] == [True, False] * 3 and len(found) == 25
    of = {text.id: text.text for text in library}
    for id, sentence, right in found:
        assert (sentence in of[id]) == right
        assert right or (id != "2" and sum(w in of[id] for w in sentence.split()) >= 7)
    assert found == list(calibration(library, seed=0)) != list(calibration(library, seed=1))
    assert list(calibration([Text("a", "A", "", "", "Nobody was ever there.")], 0)) == []


@pytest.mark.parametrize("careful", [True, False])
def test_how_often_the_judge_is_right_stands_beside_what_it_says(careful, serve, tmp_path):
    library = [
        Text(id, id, "", "", " ".join(f"{who} met {b} in the old town." for b in others))
        for id, who, others in (("a", "Ada", "BCDEFG"), ("b", "Dora", "HIJKLM"))
    ]

    def script(sent):
        document, asked = sent.prompt.split("END OF DOCUMENT")
        said = asked.split("this document:\n")[1].split("\n")[0]
        yes = said in document or not careful
        message = {"role": "assistant", "content": "yes" if yes else "no"}
        return {"choices": [{"message": message, "finish_reason": "stop"}]}

    e = dataclasses.replace(
        EXPERIMENT,
        api=ApiConfig(url=serve(script).url, model="m"),
        entigraph=EntiGraphConfig(judged=50),
        quality=QualityConfig(samples=100, calibration=20),
    )
    texts = [Synthetic("a", "Ada met B in the old town. Ada met Zoe in the old town.", 9)]
    judge = EngineOpener("api", e, None, "")
    found = measure(e, texts, library, tmp_path / "out", judge=judge)
    judged = found["factual"]
    assert judged["sentences"] == 2 and judged["calibration"]["questions"] == 20
    if careful:
        assert judged["share"]["value"] == judged["corrected"]["value"] == 0.5
        assert "on 20 sentences of known truth: 100% right; 0% of the true" in table(found)
        assert "corrected by this: 0.5000" in table(found)
    else:
        assert judged["share"]["value"] == 1 and judged["corrected"] is None
        assert "50% right; 0% of the true ones called false, 100% of the false" in table(found)


def test_a_verdict_is_the_first_yes_or_no():
    assert [verdict(a) for a in ("Yes.", "no, yes", "**YES**", "None. Nobody knows", "")] == [
        "yes", "no", "yes", "", "",
    ]  # fmt: skip


def command(*flags):
    arguments = [sys.executable, "-m", "entigraph.quality", "--config=configs/laptop.py", *flags]
    return subprocess.run(arguments, cwd=ROOT, text=True, capture_output=True)


def test_the_command_prints_its_table_and_mistakes_are_one_line(tmp_path):
    (tmp_path / "docs.jsonl").write_text(json.dumps(vars(SOURCE[0])) + "\n")
    write_corpus([Document("x", "Ada met Bob.", meta='{"document": "a"}')], tmp_path / "good")
    write_corpus([Document("x", "Ada met Bob.", meta='{"document": "z"}')], tmp_path / "bad")
    flags = [f"--source={tmp_path / 'docs.jsonl'}", f"--output={tmp_path / 'out'}"]
    done = command(f"--synthetic={tmp_path / 'good'}", *flags)
    assert done.returncode == 0 and "overlap_2" in done.stdout, done.stderr
    done = command(f"--synthetic={tmp_path / 'bad'}", *flags)
    assert done.returncode == 2 and "row x: its meta names 'z'" in done.stderr
    assert "Traceback" not in done.stderr
