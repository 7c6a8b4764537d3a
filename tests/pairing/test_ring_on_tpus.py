"""The ring, compiled by the real TPU compiler for TPUs that are not here."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.aot

# In a process of its own: the compiler wants settings before JAX begins.
PROGRAM = """
import json
from sbp_jax import aot
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh
from sbp_jax.pairing import ring

mesh = Mesh(np.array(aot.describe_topology("v5p:4x4x4", 1)), (ring.AXIS,))
traced = ring.trace(mesh, 60_000_000, 60_000_000, 1024, 10, jnp.bfloat16)
memory = traced.lower(lowering_platforms=("tpu",)).compile().memory_analysis()
print(json.dumps([memory.argument_size_in_bytes, memory.temp_size_in_bytes]))
"""


def test_a_chip_holds_its_rows_and_the_ring_but_no_matrix_of_scores():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    arguments, temporaries = json.loads(done.stdout.splitlines()[-1])
    rows = 60_000_000 / 64 * 1024 * 2  # a chip's share, in bytes
    assert 2 * rows < arguments < 2.2 * rows
    assert temporaries < 3 * rows  # two pieces of the ring and the candidates
