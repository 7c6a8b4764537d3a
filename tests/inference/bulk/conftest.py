"""What these tests share: bulk_jobs.py, and the bytes that its job ends in."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for bulk_jobs

import bulk_jobs  # noqa: E402


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    output = tmp_path_factory.mktemp("expected") / "out"
    bulk_jobs.run(output)
    return bulk_jobs.hashes(output)
