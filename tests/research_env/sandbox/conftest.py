"""A sandbox of the kind that a test file's KIND says."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))  # for sandbox_cases

pytest.register_assert_rewrite(
    "sandbox_programs", "cases_files", "cases_limits", "cases_program", "cases_reach"
)

from research_env.sandbox import factory  # noqa: E402
from research_env.sandbox.protocol import Resource  # noqa: E402


@pytest.fixture(scope="module")
def kind(request):
    """Overridden where it needs a cluster."""
    return factory(request.module.KIND, unsafe=True)


@pytest.fixture
def open_sandbox(kind):
    def opened(read_only=None):
        return kind(Resource(cores=1), read_only or {})

    return opened


@pytest.fixture
def sandbox(open_sandbox):
    with open_sandbox() as opened:
        yield opened
