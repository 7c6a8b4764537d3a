"""A dry run spends nothing and says what a job will take."""

from bulk_jobs import JOB, Words, hashes, job_of, run

from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Document, open_corpus, write_corpus
from sbp_jax.inference.bulk.estimate import estimate


def test_a_dry_run_spends_nothing_writes_nothing_and_knows_what_journals_say(tmp_path):
    engine = Words()
    report = estimate(JOB, tmp_path / "out", engine)
    assert engine.asked == [] and not (tmp_path / "out").exists()
    assert "documents      60, 60 of them sampled" in report
    assert "requests       120" in report
    assert "new tokens     at most 1,440" in report
    assert "time           unknown" in report
    manifest, _ = run(tmp_path / "out")
    before = hashes(tmp_path / "out")
    report = estimate(JOB, tmp_path / "out", engine)
    assert f"prompt tokens  {manifest['prompt_tokens']:,}" in report
    assert f"expected       {manifest['tokens']:,} new tokens in all" in report
    assert hashes(tmp_path / "out") == before and engine.asked == []


def test_a_dry_run_estimates_a_long_corpus_by_its_manifest(tmp_path):
    documents = (Document(str(i), f"text number {i}") for i in range(30_000))
    write_corpus(documents, tmp_path / "in", rows_per_shard=15_000)
    job = job_of(open_corpus(str(tmp_path / "in"), Experiment()))
    report = estimate(job, tmp_path / "out", Words())
    assert "30,000, 1,000 of them sampled" in report
    assert "requests       about 30,000" in report
