"""Ray keeps every promise of a sandbox: each program is a task on a real Ray, of this machine."""

import contextlib
import os

import pytest
from sandbox_cases import *  # noqa: F403

from research_env.sandbox import factory
from research_env.sandbox.protocol import Resource
from sbp_jax.errors import UserError

KIND = "ray"


@pytest.fixture(scope="module")
def kind():
    import ray

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    for _ in range(3):  # it gives up after 30 s, which is little on a busy machine
        with contextlib.suppress(Exception):
            ray.init(
                address="local",
                num_cpus=4,
                include_dashboard=False,
                object_store_memory=200 << 20,
                logging_level="WARNING",
            )
            break
        ray.shutdown()
    assert ray.is_initialized()
    yield factory("ray")
    ray.shutdown()


def test_what_the_cluster_does_not_have_is_refused(kind):
    with pytest.raises(UserError, match="has 4 of CPU; 5 are asked for"):
        kind(Resource(cores=5), {})
