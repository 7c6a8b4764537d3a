"""What a bulk job says while it runs."""

from bulk_jobs import CORPUS, JOB, Words, job_of, run

from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Document, open_corpus, write_corpus
from sbp_jax.inference.bulk import progress
from sbp_jax.inference.bulk.budget import Budget
from sbp_jax.inference.bulk.worker import Worker


def test_progress_says_how_much_is_done_and_left(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(progress, "EVERY_S", 0)
    documents = [Document(str(i), f"text number {i}") for i in range(100)]
    write_corpus(documents, tmp_path / "in", rows_per_shard=50)
    with caplog.at_level("INFO"):
        run(tmp_path / "out", job_of(open_corpus(str(tmp_path / "in"), Experiment())))
    lines = [record.message for record in caplog.records]
    assert lines[9].startswith("10 of about 100 texts, about ") and "tokens/s, cost 0." in lines[9]
    assert lines[-2].startswith("100 of 100 texts, about 0 s left")
    assert "100 texts, " in lines[-1] and "0 errors" in lines[-1]


def test_who_waits_for_others_counts_what_it_did_itself_once(tmp_path):
    worker = Worker(JOB, tmp_path, Words)
    for _ in range(2):
        worker.work(CORPUS.shards, Budget())
    assert worker.progress.done == worker.progress.tasks == 120
