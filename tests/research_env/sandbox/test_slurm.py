"""Slurm keeps every promise of a sandbox, on a real cluster of one node."""

import pytest
from sandbox_cases import *  # noqa: F403
from slurm import slurm_cluster

from research_env.sandbox import factory

KIND = "slurm"


@pytest.fixture(scope="module")
def kind(tmp_path_factory):
    with slurm_cluster(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SANDBOX_FOLDER", str(tmp_path_factory.mktemp("shared")))
        yield factory("slurm")
