"""On Ray a bulk job ends in the bytes of one without it, whoever dies."""

import functools
import os
import signal

import pytest
from bulk_jobs import FOLDER, JOB, Flaky, Words, answers, hashes, no_engine, run

from sbp_jax.errors import UserError
from sbp_jax.inference.bulk import BudgetSpent, run_on_ray


@pytest.fixture(scope="module")
def local_ray():
    import ray

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    path = {"env_vars": {"PYTHONPATH": str(FOLDER)}}  # where actors find bulk_jobs
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 << 20,
        runtime_env=path,
        logging_level="WARNING",
    )
    yield ray
    ray.shutdown()


class Killed(Words):
    """Takes its process with it, once, in the middle of the work."""

    def __init__(self, flag):
        super().__init__(window=3)
        self.flag = flag

    def _answer(self, request):
        if self.answered == 30 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._answer(request)


@pytest.mark.slow
def test_on_ray_it_is_the_same_bytes_though_an_actor_is_killed(tmp_path, expected, local_ray):
    engine = functools.partial(Killed, tmp_path / "killed")
    manifest = run_on_ray(JOB, tmp_path / "out", engine, workers=2)
    assert (tmp_path / "killed").exists()
    assert hashes(tmp_path / "out") == expected and manifest["rows"] == 120
    manifest = run_on_ray(JOB, tmp_path / "out", Words, workers=1)
    assert hashes(tmp_path / "out") == expected and manifest["rows"] == 120


@pytest.mark.slow
def test_on_ray_errors_are_asked_again(tmp_path, expected, local_ray):
    failed = run(tmp_path, engine=Flaky())[0]["errors"]
    run_on_ray(JOB, tmp_path, Flaky, workers=2, retry_errors=True)
    run_on_ray(JOB, tmp_path, Words, workers=2, retry_errors=True)
    assert hashes(tmp_path) == expected and len(answers(tmp_path)) == 120 + 2 * failed


@pytest.mark.slow
def test_on_ray_a_limit_is_divided_and_mistakes_are_one_line(tmp_path, expected, local_ray):
    with pytest.raises(BudgetSpent):
        run_on_ray(JOB, tmp_path, Words, workers=2, max_tokens=900)
    spent = answers(tmp_path)
    assert 900 - 3 * 25 < sum(a.prompt_tokens + a.new_tokens for a in spent) <= 900
    run_on_ray(JOB, tmp_path, Words, workers=2)
    assert hashes(tmp_path) == expected
    with pytest.raises(UserError, match="^no such model$"):
        run_on_ray(JOB, tmp_path / "other", no_engine, workers=1)
    with pytest.raises(UserError, match="takes 4 GPUs"):
        run_on_ray(JOB, tmp_path / "other", Words, gpus=4)
    with pytest.raises(UserError, match="an actor of Ray died 3 times"):
        run_on_ray(JOB, tmp_path / "other", Deadly, workers=1)


class Deadly(Words):
    def generate(self, requests):
        os.kill(os.getpid(), signal.SIGKILL)
