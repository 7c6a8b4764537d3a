"""Bulk jobs: each request once, the same bytes, whatever is killed, refused, changed or shared."""

import dataclasses
import json
import os
import random
import shutil
import signal
import time

import pytest
from bulk_jobs import (
    CONTEXT,
    CORPUS,
    JOB,
    PRICE,
    SAMPLING,
    SHARDS,
    SMALL,
    Flaky,
    Texts,
    Words,
    answers,
    corpus_of,
    hashes,
    job_of,
    no_engine,
    rows,
    run,
    start,
)

from sbp_jax.data.corpus import (
    Corpus,
    Document,
    verify_corpus,
    write_corpus,
)
from sbp_jax.errors import UserError
from sbp_jax.inference import bulk
from sbp_jax.inference.bulk import journal


def test_every_document_has_its_texts_once_in_the_order_of_the_input(tmp_path):
    manifest, engine = run(tmp_path)
    verify_corpus(tmp_path)
    documents = rows(tmp_path)
    metas = [json.loads(document.meta) for document in documents]
    asked = [(m["document"], m["arguments"]["sample"]) for m in metas]
    assert asked == [(f"shard/{s}:{i}", n) for s in range(3) for i in range(20) for n in (0, 1)]
    assert len({d.id for d in documents}) == len({r.seed for r in engine.asked}) == 120
    assert {d.source for d in documents} == {"synthesis"}
    assert metas[0]["model"] == "words" and metas[0]["document_source"] == "texts"
    assert (manifest["rows"], manifest["documents"], manifest["errors"]) == (120, 120, 0)
    assert manifest["tokens"] == sum(len(d.text.split()) for d in documents)
    assert manifest["tokens"] == sum(m["tokens"] for m in metas)
    assert manifest["prompt_tokens"] == sum(m["prompt_tokens"] for m in metas)
    assert manifest["cost"] == pytest.approx(
        PRICE * (manifest["tokens"] + manifest["prompt_tokens"])
    )
    assert manifest["finish_reasons"] == {"stop": 120}
    assert manifest["job"]["settings"]["prompt"] == "On {text}: "
    assert engine.closed


def test_a_known_model_is_opened_for_requests_alone(tmp_path, expected):
    run(tmp_path, model="words")
    for path in (*tmp_path.glob("*.parquet"), tmp_path / "manifest.json"):
        path.unlink()
    bulk.run(JOB, tmp_path, no_engine, model="words")
    assert hashes(tmp_path) == expected
    with pytest.raises(UserError, match="the model has changed"):
        run(tmp_path / "other", model="another")


def test_a_finished_job_asks_nothing_and_changes_nothing(tmp_path, expected):
    run(tmp_path)
    _, engine = run(tmp_path)
    assert engine.asked == [] and hashes(tmp_path) == expected


@pytest.mark.parametrize("window", [1, 5, 64, 1000])
def test_the_order_of_answers_does_not_matter(tmp_path, expected, window):
    run(tmp_path, engine=Words(window))
    assert hashes(tmp_path) == expected


def test_a_seed_and_a_model_make_other_texts(tmp_path):
    run(tmp_path / "a")
    run(tmp_path / "b", dataclasses.replace(JOB, seed=1))
    run(tmp_path / "c", engine=Words(fingerprint="other"))
    a, b, c = ([d.text for d in rows(tmp_path / name)] for name in "abc")
    assert a != b and a != c


def test_journals_cut_at_200_places_end_in_the_same_bytes(tmp_path):
    random.seed(0)
    job = dataclasses.replace(JOB, corpus=corpus_of(SHARDS[0]), part_documents=10)
    run(tmp_path, job)
    expected = hashes(tmp_path)
    whole = {path: path.read_bytes() for path in (tmp_path / "journal").glob("*.journal")}
    for _ in range(200):
        path = random.choice(sorted(whole))
        place = random.randrange(len(whole[path]))
        path.write_bytes(whole[path][:place])
        for left in (*tmp_path.glob("*.parquet"), tmp_path / "manifest.json"):
            left.unlink()
        for record in (tmp_path / "journal").glob("*.json"):
            if record.name != "job.json" or random.random() < 0.5:
                record.unlink()
        lost = len(list(journal_of(whole[path], tmp_path))) - len(list(journal.read(path)))
        _, engine = run(tmp_path, job, Words(3))
        assert hashes(tmp_path) == expected
        assert len(engine.asked) == lost
        whole = {path: path.read_bytes() for path in whole}


def journal_of(data, folder):
    path = folder.parent / "copy.journal"
    path.write_bytes(data)
    return journal.read(path)


@pytest.mark.slow
def test_killed_at_any_time_it_ends_in_the_same_bytes_and_no_answer_is_lost(tmp_path, expected):
    random.seed(1)
    output, log, kills = tmp_path / "out", tmp_path / "log", 0
    log.touch()
    while True:
        process = start(output, delay=0.005)
        enough = len(log.read_text().split()) + random.randrange(1, 20)
        while process.poll() is None and len(log.read_text().split()) < enough:
            time.sleep(0.001 * random.random())
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        kills += 1
    assert process.returncode == 0, process.stderr.read()
    assert kills >= 5 and hashes(output) == expected
    asked = log.read_text().split()
    assert len(set(asked)) == 120
    assert len(asked) <= 120 + 5 * kills  # those that were in flight


def test_two_processes_at_once_divide_the_shards_and_ask_once(tmp_path, expected):
    output, log = tmp_path / "out", tmp_path / "log"
    both = [start(output, 0.005, 3, log) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    assert hashes(output) == expected
    assert len(log.read_text().split()) == 120


def test_two_processes_on_one_shard_one_waits_and_takes_over_what_the_other_left(tmp_path):
    run(tmp_path / "expected", SMALL)
    output, log = tmp_path / "out", tmp_path / "log"
    log.touch()
    first = start(output, 0.02, 4, log, "SMALL")
    while len(log.read_text().split()) < 9:
        assert first.poll() is None, first.stderr.read()
    first.send_signal(signal.SIGSTOP)
    asked = len(log.read_text().split())
    second = start(output, 0.0, 4, log, "SMALL")
    assert "the last shards are other processes': waiting for them" in second.stderr.readline()
    assert len(log.read_text().split()) == asked
    first.kill()
    first.communicate()
    _, errors = second.communicate(timeout=600)
    assert second.returncode == 0, errors
    assert hashes(output) == hashes(tmp_path / "expected")
    assert len(set(log.read_text().split())) == 20 and len(log.read_text().split()) <= 20 + 5


def test_an_engine_that_dies_is_made_again_and_nothing_is_lost_or_doubled(tmp_path, expected):
    made = []

    def factory():
        made.append(Words(window=5, die_at=[] if len(made) == 4 else [30 - 7 * len(made)]))
        return made[-1]

    bulk.run(JOB, tmp_path, factory)
    assert len(made) == 5 and all(engine.closed for engine in made)
    assert hashes(tmp_path) == expected
    records = [answer.id for answer in answers(tmp_path)]
    assert len(records) == len(set(records)) == 120


def test_an_engine_that_only_dies_is_given_up_and_what_is_done_stays(tmp_path, expected):
    made = []

    def factory():
        made.append(Words(die_at=[10] if not made else [0]))
        return made[-1]

    with pytest.raises(UserError, match="died 3 times without an answer between: out of memory"):
        bulk.run(JOB, tmp_path, factory)
    assert len(made) == 3
    assert not (tmp_path / "manifest.json").exists()
    _, engine = run(tmp_path)
    assert len(engine.asked) == 110 and hashes(tmp_path) == expected


def test_an_engine_that_forgets_requests_is_asked_again(tmp_path, expected):
    class Forgetful(Words):
        def generate(self, requests):
            yield from (c for c in super().generate(requests) if self.answered % 3)

    run(tmp_path, engine=Forgetful())
    assert hashes(tmp_path) == expected


def test_bad_rows_cost_themselves_alone_and_are_recorded(tmp_path):
    texts = ["good", "x" * (CONTEXT + 1), "", "\0\0", "NUL \0 within", "good too"]
    job = job_of(corpus_of(texts, bad=2), prompt="{text}")
    manifest, _ = run(tmp_path, job)
    assert [json.loads(d.meta)["document"] for d in rows(tmp_path)] == ["shard/0:0", "shard/0:5"]
    assert manifest["finish_reasons"] == {"error": 4, "stop": 2} and manifest["errors"] == 4
    reasons = [example["error"] for example in manifest["error_examples"]]
    assert reasons == ["longer than the context", "empty", "NUL characters", "NUL characters"]
    assert manifest["bad_rows"] == 2
    assert manifest["bad_row_examples"] == ["shard/0:0: broken", "shard/0:1: broken"]


def test_empty_answers_are_counted_and_stay_out_of_the_corpus(tmp_path):
    class Silent(Words):
        def _answer(self, request):
            return super()._answer(request)._replace(text=["", " \n", "\0"][request.seed % 3])

    manifest, _ = run(tmp_path, engine=Silent())
    assert (manifest["empty"], manifest["rows"], manifest["shards"]) == (120, 0, [])


def test_a_corpus_without_a_document_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing to ask for in it: shard/0:0: broken"):
        run(tmp_path, job_of(corpus_of([], bad=1)))


def test_a_document_that_is_there_twice_has_its_text_twice_and_is_asked_for_once(tmp_path):
    class Twice(Texts):
        def read(self, on_bad_row):
            for text in self.texts:
                yield Document("same", text)

    corpus = Corpus("twice", [Twice("a", ("one", "two", "one"))], "twice")
    _, engine = run(tmp_path, job_of(corpus), Words(10))
    documents = rows(tmp_path)
    assert len(engine.asked) == 2 and len(documents) == 3
    assert documents[0] == documents[2] != documents[1]


def test_changing_the_prompt_redoes_only_what_it_changes(tmp_path):
    def requests(marked):
        def function(document):
            extra = "!" if document.id in marked else ""
            yield {"sample": 0}, document.text + extra, SAMPLING

        return function

    plain = bulk.Job(CORPUS, requests([]), {"version": 1}, part_documents=7)
    changed = bulk.Job(
        CORPUS, requests(["shard/1:3", "shard/2:19"]), {"version": 2}, part_documents=7
    )
    run(tmp_path / "out", plain)
    before = {d.id for d in rows(tmp_path / "out")}
    _, engine = run(tmp_path / "out", changed)
    assert len(engine.asked) == 2
    assert len({d.id for d in rows(tmp_path / "out")} - before) == 2
    run(tmp_path / "new", changed)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "new")
    run(tmp_path / "old", plain)
    _, engine = run(tmp_path / "out", plain)
    assert engine.asked == [] and hashes(tmp_path / "out") == hashes(tmp_path / "old")


def test_more_samples_ask_for_the_new_ones_and_fewer_leave_no_old_files(tmp_path):
    run(tmp_path / "out", job_of(CORPUS))
    _, engine = run(tmp_path / "out", JOB)
    assert len(engine.asked) == 60
    less = job_of(corpus_of(SHARDS[0]))
    _, engine = run(tmp_path / "out", less)
    run(tmp_path / "new", less)
    assert engine.asked == [] and hashes(tmp_path / "out") == hashes(tmp_path / "new")


def test_a_changed_document_is_asked_for_again_and_the_others_are_not(tmp_path):
    run(tmp_path)
    shards = [list(shard) for shard in SHARDS]
    shards[1][5] = "another text"
    _, engine = run(tmp_path, job_of(corpus_of(*shards), per_document=2))
    assert len(engine.asked) == 2 and "another text" in engine.asked[0].prompt


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    write_corpus([Document("mine", "my text")], tmp_path)
    before = hashes(tmp_path)
    for _ in range(2):
        with pytest.raises(UserError, match="holds something else"):
            run(tmp_path)
    assert hashes(tmp_path) == before


def test_the_folder_of_a_run_is_left_alone(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds something else"):
        run(tmp_path)
    assert not list(tmp_path.glob("part-*"))


def test_another_context_asks_anew(tmp_path):
    run(tmp_path, SMALL)
    longer = dataclasses.replace(SMALL, context=4096)
    _, engine = run(tmp_path, longer)
    assert len(engine.asked) == 20
    _, engine = run(tmp_path, SMALL)
    assert engine.asked == []


def test_a_job_all_of_whose_requests_failed_is_an_error_each_time(tmp_path):
    job = job_of(corpus_of(["x" * (CONTEXT + 1)] * 3))
    for _ in range(2):
        with pytest.raises(UserError, match="each of 3 requests failed.*longer than the context"):
            run(tmp_path, job)


def test_errors_are_asked_again_when_told_to_and_the_later_answer_counts(tmp_path, expected):
    manifest, _ = run(tmp_path, engine=Flaky())
    failed = manifest["errors"]
    with_errors = hashes(tmp_path)
    _, engine = run(tmp_path)
    assert failed > 20 and engine.asked == [] and hashes(tmp_path) == with_errors
    for _ in range(2):  # they fail again, and each run ends
        _, engine = run(tmp_path, engine=Flaky(5), retry_errors=True)
        assert len(engine.asked) == failed and hashes(tmp_path) == with_errors
    _, engine = run(tmp_path, retry_errors=True)
    assert len(engine.asked) == failed and hashes(tmp_path) == expected
    assert len(answers(tmp_path)) == 120 + 3 * failed
    _, engine = run(tmp_path, retry_errors=True)
    assert engine.asked == []


def test_errors_of_a_job_that_is_not_finished_are_asked_again_when_told_to(tmp_path, expected):
    made = iter([Flaky(die_at=[50]), Flaky(die_at=[0]), Flaky(die_at=[0])])
    with pytest.raises(UserError, match="died 3 times"):
        bulk.run(JOB, tmp_path, lambda: next(made))
    failed = sum(answer.finish_reason == "error" for answer in answers(tmp_path))
    _, engine = run(tmp_path, retry_errors=True)
    assert failed and len(engine.asked) == 70 + failed and hashes(tmp_path) == expected


def test_asking_errors_again_may_be_killed_and_shared(tmp_path, expected):
    output, log = tmp_path / "out", tmp_path / "log"
    failed = run(output, engine=Flaky())[0]["errors"]
    log.touch()
    process = start(output, 0.02, 4, log, retry="yes")
    while len(log.read_text().split()) < 12:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.kill()
    process.communicate()
    shutil.copytree(output, tmp_path / "copy")
    _, engine = run(tmp_path / "copy")
    assert engine.asked == []
    first = hashes(tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*.json"):
        if path.name != "job.json":
            path.unlink()
    _, engine = run(tmp_path / "copy")
    assert engine.asked == [] and hashes(tmp_path / "copy") == first  # the journals alone decide
    both = [start(output, 0.005, 3, log, retry="yes") for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    assert hashes(output) == expected
    asked = log.read_text().split()
    assert len(set(asked)) == failed and len(asked) <= failed + 5


def test_errors_and_their_second_answers_count_for_limits_both(tmp_path, expected):
    run(tmp_path, engine=Flaky())
    spent = sum(a.prompt_tokens + a.new_tokens for a in answers(tmp_path))
    engine = Words()
    with pytest.raises(bulk.BudgetSpent):
        run(tmp_path, engine=engine, max_tokens=spent, retry_errors=True)
    assert engine.asked == []
    run(tmp_path, max_tokens=2 * spent, retry_errors=True)
    assert hashes(tmp_path) == expected


def test_the_last_line_names_the_flag_that_asks_errors_again(tmp_path, caplog):
    caplog.set_level("INFO")
    for engine, named in ((Flaky(), True), (Words(), True), (Words(), False)):
        caplog.clear()
        run(tmp_path, engine=engine, retry_errors=not named)
        assert ("--retry_errors" in caplog.text) == named


def test_what_the_engine_refuses_at_once_leaves_a_finished_job_as_it_is(tmp_path, expected):
    class Refusing(Words):
        def generate(self, requests):
            next(iter(requests))
            raise UserError("no chat template")

    run(tmp_path)
    changed = job_of(CORPUS, prompt="Another {text}")
    with pytest.raises(UserError, match="no chat template"):
        run(tmp_path, changed, Refusing())
    assert hashes(tmp_path) == expected
    _, engine = run(tmp_path)
    assert engine.asked == []


def test_a_changed_job_is_not_finished_from_its_first_answer_on(tmp_path):
    run(tmp_path)
    made = iter([Words(die_at=[1]), Words(die_at=[0]), Words(die_at=[0])])
    with pytest.raises(UserError, match="died 3 times"):
        bulk.run(job_of(CORPUS, prompt="Another {text}"), tmp_path, lambda: next(made))
    assert not (tmp_path / "manifest.json").exists()


def test_records_that_are_damaged_are_made_again_without_asking(tmp_path, expected):
    run(tmp_path)
    (tmp_path / "manifest.json").unlink()
    for path in (tmp_path / "journal").glob("*.json"):
        path.write_text('{"ta')
    _, engine = run(tmp_path)
    assert engine.asked == [] and hashes(tmp_path) == expected


def test_what_another_process_is_writing_is_not_swept_away(tmp_path):
    journals = tmp_path / "journal"
    journals.mkdir()
    living, dead = journals / ".speed.json.1.tmp", journals / ".old-00000.json.1.tmp"
    living.touch(), dead.touch()
    run(tmp_path)
    assert living.exists() and not dead.exists()


def test_without_its_journals_a_finished_corpus_stays_finished(tmp_path, expected):
    run(tmp_path)
    shutil.rmtree(tmp_path / "journal")
    _, engine = run(tmp_path)
    assert engine.asked == [] and hashes(tmp_path) == expected


def test_a_part_that_was_deleted_comes_back_without_asking(tmp_path, expected):
    run(tmp_path)
    min(tmp_path.glob("*.parquet")).unlink()
    _, engine = run(tmp_path)
    assert engine.asked == [] and hashes(tmp_path) == expected


def test_messages_and_ids_are_prompts_too(tmp_path):
    def requests(document):
        yield {}, ({"role": "user", "content": document.text},), SAMPLING
        yield {}, (1, 2, 3), SAMPLING

    _, engine = run(tmp_path, bulk.Job(CORPUS, requests, {}))
    assert len({request.id for request in engine.asked}) == 120


def test_braces_in_prompts_and_documents_stay_as_they_are():
    template = bulk.Template('{"a": {text}}', SAMPLING, chat=True)
    [(_, prompt, _)] = template(Document("", "{0} {text} {}"))
    assert prompt == ({"role": "user", "content": '{"a": {0} {text} {}}'},)


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(tmp_path, expected):
    output, log = tmp_path / "out", tmp_path / "log"
    process = start(output, 0.01, 4, log)
    while not log.exists() or len(log.read_text().split()) < 20:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted; resume with the same command"
    assert "Traceback" not in errors
    asked = len(log.read_text().split())
    _, engine = run(output)
    assert hashes(output) == expected
    assert 120 - asked <= len(engine.asked) <= 120 - asked + 5


@pytest.mark.parametrize("pattern", [".journal", ".parquet", ".json"])
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, expected, monkeypatch, pattern):
    """Full at the 30th file, or record, of a kind."""
    written, whole_write, whole_fsync = 0, os.write, os.fsync

    def full(file):
        nonlocal written
        written += pattern in os.readlink(f"/proc/self/fd/{file}")
        if written == (30 if pattern == ".journal" else 3):
            raise OSError(28, "No space left on device")

    def write(file, data):
        full(file)
        return whole_write(file, data)

    def fsync(file):
        full(file)
        return whole_fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(UserError, match="cannot write: No space left on device"):
            run(tmp_path)
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "manifest.json").exists()
    answered = len(answers(tmp_path))
    _, engine = run(tmp_path)
    assert hashes(tmp_path) == expected and len(engine.asked) == 120 - answered
