"""Ray keeps every promise of a sandbox: each program is a task on a real Ray, of this machine."""

import os

import pytest
from sandbox_cases import *  # noqa: F403

from research_env.sandbox import factory

KIND = "ray"


@pytest.fixture(scope="module")
def kind():
    import ray

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=200 << 20,
        logging_level="WARNING",
    )
    yield factory("ray")
    ray.shutdown()
