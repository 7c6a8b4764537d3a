"""The environment of every test and of every process it starts; set before jax is imported.

Eight fake CPU devices let tests build meshes in-process; what is not sharded runs on the first.
"""

import atexit
import gc
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.append(str(Path(__file__).parent))  # for slurm, vllm_server

if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers share what any of them has compiled
    _compilation_cache = tempfile.TemporaryDirectory(prefix="sbp_jax-compiled-")
    atexit.register(_compilation_cache.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compilation_cache.name

os.environ.update(
    JAX_PLATFORMS="cpu",
    XLA_FLAGS="--xla_force_host_platform_device_count=8",
    TF_CPP_MIN_LOG_LEVEL="2",  # XLA's and TensorFlow's warnings
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
)

# Started with nohup or `&`, this process and all that it starts would ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines differ in speed, so an example has no deadline; CI sees the same examples each time.
settings.register_profile("sbp_jax", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("sbp_jax")


LONGEST = (
    "integration", "study", "test_study.py", "test_page.py", "test_reproduction.py", "test_aot.py",
    "test_bench.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """The longest files first, else one worker has one of them left when the other has nothing."""
    items.sort(key=lambda item: not set(LONGEST).intersection(item.path.parts))


@pytest.fixture(scope="module", autouse=True)
def without_the_programs_of_other_files():
    """XLA:CPU maps some pages for each program that it compiles, and the process that has 65,530
    maps (vm.max_map_count) dies at the next: all tests together have more.
    """
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()


STATUS = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    session.config.stash[STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """Destructors of the native threads that vLLM, Ray, torch and JAX have left in this one process
    abort it now and then, when all tests have passed.
    """
    if (status := config.stash.get(STATUS, None)) is not None:
        atexit._run_exitfuncs()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
