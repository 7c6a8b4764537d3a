import json
import os
import random
import signal
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sbp_jax import files
from sbp_jax.config import DataConfig, Experiment
from sbp_jax.data.corpus import Corpus, Document, open_corpus, write_corpus
from sbp_jax.data.ngrams import Words, normal_form
from sbp_jax.errors import UserError
from sbp_jax.evaluation import contamination
from sbp_jax.evaluation.compare import compare
from sbp_jax.evaluation.contamination import check
from sbp_jax.evaluation.scores import Results, Score, TaskScores


def evaluation(folder, **tasks):
    """An evaluation of these texts, in which the model got every second one right."""
    entries = {}
    for task, texts in tasks.items():
        right = Score((np.arange(len(texts)) % 2).astype(float), np.ones(len(texts)))
        hashes = [f"{task}{i}" for i in range(len(texts))]
        entries[task] = TaskScores(hashes, texts, {"acc": right}).write(folder, task)
    files.write_json(folder / "results.json", {"name": folder.name, "tasks": entries})
    return Results.read(folder)


class Shard:
    def __init__(self, name, texts):
        self.name, self.texts = name, texts

    def read(self, on_bad_row):
        for i, text in enumerate(self.texts):
            yield Document(f"{self.name}:{i}", text)


def corpus(*shards):
    """One in memory; a shard is a list of texts."""
    return Corpus("memory", [Shard(f"s{i}", s) for i, s in enumerate(shards)], repr(shards))


def contaminated(results, *shards, task="t", **options):
    return check(results, corpus(*shards), **options)["tasks"][task]["contaminated"]


def words(n, start=0):
    return " ".join(f"w{i}" for i in range(start, start + n))


def oracle_words(text):
    """Character by character, unlike the module."""
    text = unicodedata.normalize("NFC", text).lower()
    return "".join(c if c.isalnum() else " " for c in text).split()


def oracle(texts, documents):
    documents = [oracle_words(document) for document in documents]
    found = []
    for number, text in enumerate(map(oracle_words, texts)):
        n = min(13, len(text))
        own = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
        if n >= 8 and any(
            tuple(document[i : i + n]) in own
            for document in documents
            for i in range(len(document) - n + 1)
        ):
            found.append(number)
    return found


# Few words, so that parts of texts are often alike; some are not ASCII, some are no words.
WORDS = st.sampled_from(
    ["a", "B", "é", "e\u0301", "Ω", "7", "_", "’", "\n", "it's", "İ", "ß", "日本"]
)
TEXTS = st.lists(st.lists(WORDS, max_size=30).map(" ".join), max_size=5)


class TestWords:
    @given(st.text())
    @example("naïve_Café—42% ½ İ ǅ e\u0301 \u0000 \x85 \u2028 Ⅷ")
    def test_are_runs_of_letters_and_digits_in_lower_case(self, text):
        assert normal_form(text).decode() == " ".join(oracle_words(text))

    def test_half_a_surrogate_pair_is_no_word(self):
        assert normal_form("a \ud800 b") == b"a b"

    @given(
        st.lists(st.lists(WORDS, max_size=20).map(" ".join).map(normal_form).filter(len)),
        st.integers(1, 14),
    )
    def test_equal_words_have_equal_hashes_and_others_others(self, lines, n):
        if not lines:
            return
        batch = Words(lines)
        first, hashes = batch.grams(n)
        grams = [batch.gram(i, n) for i in first]
        expected = [
            b" ".join(line.split()[i : i + n])
            for line in lines
            for i in range(len(line.split()) - n + 1)
        ]
        assert grams == expected
        assert len(set(grams)) == len(set(hashes.tolist()))
        assert len(set(zip(grams, hashes.tolist(), strict=True))) == len(set(grams))


class TestFinds:
    def test_thirteen_words_but_not_twelve(self, tmp_path):
        results = evaluation(tmp_path, t=[words(40), words(40, 100), words(40, 200)])
        text = f"so {words(12, 5)} but {words(13, 110)} end"
        assert contaminated(results, ["other", text]) == [1]

    def test_whatever_the_case_punctuation_and_spacing(self, tmp_path):
        question = "Which of these, if any, is the LARGEST moon of Saturn: Titan, Rhea or Dione?"
        results = evaluation(tmp_path, t=[question, words(20)])
        text = (
            "x\n\n**which** of these if any\tis the\r\nlargest   Moon_of Saturn – "
            "titan; “rhea” OR dione"
        )
        assert contaminated(results, [text]) == [0]

    def test_whichever_way_accents_are_written(self, tmp_path):
        text = (
            "Où est né l'écrivain français célèbre à Besançon, près de l'église Sainte-Madeleine ?"
        )
        results = evaluation(tmp_path, t=[unicodedata.normalize("NFC", text)])
        assert contaminated(results, [unicodedata.normalize("NFD", text).upper()]) == [0]

    def test_at_the_borders_of_documents_and_in_the_middle_of_long_ones(self, tmp_path):
        results = evaluation(tmp_path, t=[words(15, 100 * i) for i in range(5)])
        filler = words(100_000, 10_000)
        shards = (
            [f"{words(14, 1)} tail", f"head {words(13, 100)}"],
            [f"{filler} {words(13, 201)} {filler}"],
            ["short", f"{words(7, 300)}", f"{words(8, 307)}"],  # over a border: not found
            [words(15, 400)],
        )
        assert contaminated(results, *shards) == [0, 1, 2, 4]

    def test_short_documents_as_a_whole_and_none_of_fewer_than_eight_words(self, tmp_path):
        texts = [words(n, 100 * n) for n in range(14)]
        results = evaluation(tmp_path, t=texts)
        record = check(results, corpus([f"yes {text} indeed" for text in texts]))["tasks"]["t"]
        assert record["contaminated"] == [8, 9, 10, 11, 12, 13]
        assert record["too_short"] == 8
        part = evaluation(tmp_path / "b", t=[words(12)])
        assert contaminated(part, [f"{words(11)} x"]) == []

    def test_says_where_the_first_one_was(self, tmp_path):
        results = evaluation(tmp_path, t=[words(20)])
        shards = ["nothing"], ["nothing", f"A {words(13, 3).upper()} b", words(20)], [words(20)]
        found = check(results, corpus(*shards))["tasks"]["t"]["found"]
        assert found == {"0": ["s1:1", words(13, 3)]}

    def test_boilerplate_of_a_task_says_nothing_of_its_documents(self, tmp_path):
        prompt = words(13)
        texts = [f"{prompt} {words(13, 100 * i)}" for i in range(1, 12)]
        results = evaluation(tmp_path, t=texts, u=texts[:10], v=[prompt] * 11)
        tasks = check(results, corpus([prompt, words(13, 300)]))["tasks"]
        assert (tasks["t"]["contaminated"], tasks["t"]["boilerplate"]) == ([2], 0)
        assert tasks["u"]["contaminated"] == list(range(10))  # shared by ten only
        assert (tasks["v"]["contaminated"], tasks["v"]["boilerplate"]) == ([], 11)

    def test_what_the_corpus_has_a_hundred_times_counts(self, tmp_path):
        assert contaminated(evaluation(tmp_path, t=[words(13)]), [words(13)] * 100) == [0]

    def test_equal_hashes_of_other_words_are_no_contamination(self, tmp_path, monkeypatch):
        grams = Words.grams
        monkeypatch.setattr(
            Words, "grams", lambda self, n: (grams(self, n)[0], grams(self, n)[1] * np.uint64(0))
        )
        results = evaluation(tmp_path, t=[words(13, i) for i in range(0, 200, 20)])
        inside = f"00 {words(12, 101)}"  # a part of the sixth text, but not of its words
        texts = [words(13, 40), words(12, 60), words(300, 1000), inside]
        assert contaminated(results, texts) == [2]

    @settings(max_examples=60)
    @given(TEXTS, TEXTS, st.integers(0, 5))
    def test_what_brute_force_finds(self, tmp_path_factory, texts, documents, cut):
        results = evaluation(tmp_path_factory.mktemp("W"), t=texts)
        assert contaminated(results, documents[:cut], documents[cut:]) == oracle(texts, documents)

    def test_what_brute_force_finds_in_many_batches(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sbp_jax.data.ngrams.BATCH_BYTES", 500)
        rng = random.Random(0)
        texts = [" ".join(rng.choices("abc", k=rng.randint(0, 40))) for _ in range(60)]
        documents = [" ".join(rng.choices("ABC", k=rng.randint(0, 400))) for _ in range(300)]
        monkeypatch.setattr(contamination, "SHARED", 60)
        found = contaminated(evaluation(tmp_path, t=texts), documents[:100], documents[100:])
        assert found == oracle(texts, documents) and 5 < len(found) < 55

    @pytest.mark.parametrize("texts", [[], [""], ["too short"]])
    def test_nothing_where_there_is_nothing_to_look_for(self, tmp_path, texts):
        record = check(evaluation(tmp_path, t=texts), corpus(["", "some text"], []))
        assert record["tasks"]["t"]["contaminated"] == []
        assert contamination.markdown(record)


def lines(path, texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def opened(spec):
    return open_corpus(str(spec), Experiment(data=DataConfig()))


class TestCheck:
    TEXTS = [words(20, 100 * i) for i in range(6)]

    def test_writes_the_scores_with_and_without_what_was_found(self, tmp_path):
        results = evaluation(tmp_path, t=self.TEXTS, clean=self.TEXTS[3:])
        record = check(results, corpus([self.TEXTS[1]], [self.TEXTS[2]]))
        assert record == json.loads((tmp_path / "contamination.json").read_text())
        assert (record["n"], record["corpus"], record["corpus_documents"]) == (13, "memory", 2)
        task = record["tasks"]["t"]
        assert (task["documents"], task["contaminated"], task["clean_documents"]) == (6, [1, 2], 4)
        score = Score(np.array([0.0, 1, 0, 1]), np.ones(4))
        assert task["metrics"]["acc"]["raw"]["value"] == 0.5
        assert task["metrics"]["acc"]["clean"] == score.recorded()
        table = contamination.markdown(record)
        assert "2 of 6 (33.3%)" in table and "0 of 3 (0.0%)" in table

    def test_several_workers_write_the_bytes_of_one(self, tmp_path):
        for i in range(5):
            texts = [f"x {self.TEXTS[i]} y", self.TEXTS[0].title(), "é " + words(500, 9000)]
            lines(tmp_path / f"c/{i}.jsonl", texts)
        written = []
        for workers in (1, 3):
            results = evaluation(tmp_path / str(workers), t=self.TEXTS)
            check(results, opened(tmp_path / "c"), workers=workers)
            written.append((tmp_path / str(workers) / "contamination.json").read_bytes())
        assert written[0] == written[1]
        assert json.loads(written[0])["tasks"]["t"]["contaminated"] == [0, 1, 2, 3, 4]

    def test_a_corpus_of_ours_is_read(self, tmp_path):
        write_corpus([Document("d7", self.TEXTS[3])], tmp_path / "c")
        record = check(evaluation(tmp_path / "W", t=self.TEXTS), opened(tmp_path / "c"))
        assert record["tasks"]["t"]["found"] == {"3": ["d7", words(13, 300)]}

    def test_does_nothing_for_a_corpus_that_was_checked(self, tmp_path):
        results = evaluation(tmp_path, t=self.TEXTS)
        first = corpus([self.TEXTS[0]])
        record = check(results, first)

        class Unreadable(Shard):
            def read(self, on_bad_row):
                pytest.fail("read again")

        again = Corpus(first.name, [Unreadable("s0", [])], first.fingerprint)
        assert check(results, again) == record
        assert contaminated(results, [self.TEXTS[1]]) == [1]

    def test_goes_on_with_the_shards_that_are_missing(self, tmp_path):
        class Broken(Shard):
            def read(self, on_bad_row):
                raise KeyboardInterrupt

        class Once(Shard):
            reads = 0

            def read(self, on_bad_row):
                Once.reads += 1
                return super().read(on_bad_row)

        results = evaluation(tmp_path, t=self.TEXTS)
        first, last = Once("a", [self.TEXTS[0]]), Shard("b", [self.TEXTS[5]])
        with pytest.raises(KeyboardInterrupt):
            check(results, Corpus("c", [first, Broken("b", [])], "f"))
        assert not (tmp_path / "contamination.json").exists()
        record = check(results, Corpus("c", [first, last], "f"))
        assert record["tasks"]["t"]["contaminated"] == [0, 5] and Once.reads == 1
        assert os.listdir(tmp_path / "contamination") == ["lock"]

    def test_malformed_rows_stop_it_or_are_counted(self, tmp_path):
        (tmp_path / "c.jsonl").write_text(json.dumps({"text": self.TEXTS[2]}) + "\n{oh\n")
        results = evaluation(tmp_path / "W", t=self.TEXTS)
        with pytest.raises(UserError, match=r"c.jsonl:2: not valid JSON"):
            check(results, opened(tmp_path / "c.jsonl"))
        record = check(results, opened(tmp_path / "c.jsonl"), on_error="skip")
        assert (record["corpus_skipped"], record["tasks"]["t"]["contaminated"]) == (1, [2])

    def test_an_error_in_a_worker_is_the_users_error(self, tmp_path):
        lines(tmp_path / "c/0.jsonl", ["fine"])
        (tmp_path / "c/1.jsonl").write_text("[]\n")
        with pytest.raises(UserError, match=r"1.jsonl:1: a JSON object is expected"):
            check(evaluation(tmp_path / "W", t=self.TEXTS), opened(tmp_path / "c"), workers=2)

    def test_a_second_process_is_refused_while_one_is_at_it(self, tmp_path):
        results = evaluation(tmp_path, t=self.TEXTS)
        with (
            files.exclusive(tmp_path / "contamination" / "lock", ""),
            pytest.raises(UserError, match="another process checks this evaluation"),
        ):
            check(results, corpus(["x"]))

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"tasks": 3}'])
    def test_a_damaged_record_is_named(self, tmp_path, text):
        results = evaluation(tmp_path, t=self.TEXTS)
        (tmp_path / "contamination.json").write_text(text)
        with pytest.raises(UserError, match="contamination.json: damaged; delete it"):
            check(results, corpus(["x"]))


class TestInComparisons:
    TEXTS = [words(20, 100 * i) for i in range(40)]

    def test_the_clean_score_stands_below_the_raw_one(self, tmp_path):
        a, b = (evaluation(tmp_path / n, t=self.TEXTS, u=self.TEXTS[:30]) for n in "ab")
        check(a, corpus(self.TEXTS[31:36:2]))
        check(b, corpus(self.TEXTS[35:40]))
        rows = compare([a, b]).rows
        shown = [(row.benchmark, row.clean, row.documents) for row in rows]
        assert shown == [("t acc", False, 40), ("t acc", True, 33), ("u acc", False, 30)]
        assert rows[1].cells[0].value == pytest.approx(15 / 33)
        assert rows[1].cells[1].mark == "tie"
        assert "t acc, clean" in compare([a, b]).markdown()

    def test_nothing_is_left_where_all_is_contaminated(self, tmp_path):
        a = evaluation(tmp_path, t=self.TEXTS)
        check(a, corpus(self.TEXTS))
        _, row = compare([a, a]).rows
        assert row.documents == 0 and row.cells[1].mark == "undefined"
        assert compare([a, a]).html_page()

    def test_the_average_has_a_clean_row_as_well(self, tmp_path):
        a = evaluation(tmp_path, t=self.TEXTS, u=self.TEXTS[:30])
        table = [
            {
                "benchmark": n,
                "task": n,
                "metric": "acc",
                "shots": 0,
                "percent": True,
                "average": True,
            }
            for n in "tu"
        ]
        a.recorded["table"] = table
        check(a, corpus([self.TEXTS[39]]))
        shown = [(row.benchmark, row.clean) for row in compare([a, a]).rows]
        assert shown == [
            ("t", False),
            ("t", True),
            ("u", False),
            ("Average QA", False),
            ("Average QA", True),
        ]

    def test_a_record_of_other_documents_is_refused(self, tmp_path):
        a = evaluation(tmp_path, t=self.TEXTS)
        check(a, corpus(["x"]))
        a = evaluation(tmp_path, t=self.TEXTS[:9])
        with pytest.raises(UserError, match="contamination.json: t had other documents"):
            compare([a, a])


KILLED = """
import sys, time
from sbp_jax.config import Experiment
from sbp_jax.data import text_files
from sbp_jax.data.corpus import open_corpus
from sbp_jax.evaluation import contamination
from sbp_jax.evaluation.scores import Results
read = text_files.FileShard.read
def stuck(self, on_bad_row):
    if self.name == "2.jsonl":
        print("there", flush=True)
        time.sleep(1000)
    return read(self, on_bad_row)
text_files.FileShard.read = stuck
contamination.check(Results.read(sys.argv[1]), open_corpus(sys.argv[2], Experiment()))
"""


@pytest.mark.multiprocess
def test_a_scan_goes_on_after_kill_9(tmp_path):
    texts = [words(20, 100 * i) for i in range(4)]
    for i, text in enumerate(texts):
        lines(tmp_path / f"c/{i}.jsonl", [text])
    results = evaluation(tmp_path / "W", t=texts)
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "W"), str(tmp_path / "c")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"there\n"
        process.send_signal(signal.SIGKILL)
    left = sorted((tmp_path / "W" / "contamination").rglob("*.json"))
    assert [path.name for path in left] == ["000000.json", "000001.json"]
    assert check(results, opened(tmp_path / "c"))["tasks"]["t"]["contaminated"] == [0, 1, 2, 3]
