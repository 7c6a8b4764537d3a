"""On Ray the folder of neighbours has the bytes of one made without it, whoever dies."""

import dataclasses
import os
import signal

import pytest

from sbp_jax.config import DataConfig, Experiment, PairingConfig
from sbp_jax.data.corpus import open_corpus
from sbp_jax.errors import UserError
from sbp_jax.pairing.embed import find_neighbors, here
from sbp_jax.pairing.ray import OnRay

EXPERIMENT = Experiment(
    toyworld=dataclasses.replace(Experiment().toyworld, documents=2500),
    data=DataConfig(workers=1),
    pairing=PairingConfig(dimensions=64),
)


@pytest.fixture(scope="module")
def on_ray():
    import ray

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 << 20,
        logging_level="WARNING",
    )
    with OnRay() as run:
        yield run
    assert ray.is_initialized()  # what it did not begin, it leaves
    ray.shutdown()


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def deadly(flags, run, tasks_before):
    """A `Run` in which a process dies in the middle of each stage, once."""

    def with_deaths(opened, tasks, what, by_model=False):
        def opened_here():
            function, done = opened(), 0

            def do(task):
                nonlocal done
                flag = flags / what.replace(" ", "-")
                if done == tasks_before and not flag.exists():
                    flag.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                done += 1
                function(task)

            return do

        run(opened_here, tasks, what, by_model)

    return with_deaths


@pytest.mark.slow
def test_it_is_the_same_bytes_though_actors_are_killed(on_ray, tmp_path):
    corpus = open_corpus("toyworld", EXPERIMENT)
    find_neighbors(corpus, EXPERIMENT, tmp_path / "here")
    (tmp_path / "flags").mkdir()
    run = deadly(tmp_path / "flags", on_ray, 0)
    find_neighbors(corpus, EXPERIMENT, tmp_path / "there", run=run)
    assert len(list((tmp_path / "flags").iterdir())) == 3  # read, count, embed
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def refuse(task):
    raise UserError(f"task {task} cannot be")


def die(task):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_task_that_fails_or_always_kills_is_one_line(on_ray):
    with pytest.raises(UserError, match="^task 1 cannot be$"):
        on_ray(lambda: refuse, [1], "refusals")
    with pytest.raises(UserError, match="an actor of Ray died 3 times over the same task"):
        on_ray(lambda: die, [1], "deaths")


def test_here_a_model_is_opened_once_in_this_process_and_only_for_work():
    done = []

    def opened():
        done.append("opened")
        return done.append

    here(4)(opened, [1, 2], "numbers", by_model=True)
    here(4)(opened, [], "nothing", by_model=True)
    assert done == ["opened", 1, 2]
