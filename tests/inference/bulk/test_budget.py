"""Limits are never passed, missed by less than a request, and kept over all runs."""

import pytest
from bulk_jobs import CORPUS, JOB, SAMPLING, Words, answers, hashes, job_of, run

from sbp_jax.errors import UserError
from sbp_jax.inference.bulk import Budget, BudgetSpent, within
from sbp_jax.inference.bulk.worker import Worker
from sbp_jax.inference.engine import Request


@pytest.mark.parametrize("limit", [{"max_tokens": 700}, {"max_cost": 0.7}])
@pytest.mark.parametrize("window", [1, 16, 1000])
def test_a_limit_is_never_passed_and_missed_by_less_than_a_request(
    tmp_path, expected, limit, window
):
    with pytest.raises(BudgetSpent, match="with a higher limit the same command goes on"):
        run(tmp_path, engine=Words(window), **limit)
    spent = answers(tmp_path)
    tokens = sum(a.prompt_tokens + a.new_tokens for a in spent)
    worst = max(a.prompt_tokens for a in spent) + SAMPLING.max_tokens
    assert 700 - worst < tokens <= 700
    assert not (tmp_path / "manifest.json").exists()
    with pytest.raises(BudgetSpent):  # what was spent before counts
        run(tmp_path, engine=Words(window), **limit)
    _, engine = run(tmp_path, engine=Words(window), max_tokens=10_000)
    assert len(engine.asked) <= 120 - len(spent) and hashes(tmp_path) == expected


def test_a_budget_needs_no_job():
    budget = Budget(max_tokens=100)
    requests = [Request(str(i), "x" * 40, SAMPLING, i) for i in range(50)]
    done = list(within(Words(8), requests, budget))
    assert budget.exhausted and 100 - 23 < budget.tokens <= 100
    assert sum(c.prompt_tokens + c.new_tokens for c in done) == budget.tokens
    budget = Budget()
    assert len(list(within(Words(8), requests, budget))) == 50 and not budget.exhausted


def test_a_limit_is_kept_by_one_process_and_another_job_has_to_wait(tmp_path):
    worker = Worker(JOB, tmp_path, Words)
    with worker.output.joined(alone=False):
        with pytest.raises(UserError, match="another process is at work there"):
            run(tmp_path, max_tokens=10_000)
        with pytest.raises(UserError, match="another process is at work there"):
            run(tmp_path, job_of(CORPUS))
        run(tmp_path)
