"""Meshes for TPU slices that are not here: libtpu describes them. In a process of its own, since
libtpu prints what it misses on a machine without TPUs.
"""

import subprocess
import sys

import pytest

SCRIPT = """
from jax.experimental import topologies
from sbp_jax import parallel
from sbp_jax.config import MeshConfig
from sbp_jax.errors import UserError

slices = topologies.get_topology_desc(
    "v5p:2x2x4", platform="tpu", num_slices=2, chip_config_name="megacore",
    chips_per_host_bounds=(2, 2, 1),
)
mesh = parallel.make_mesh(MeshConfig(replica=4, tensor=2), slices.devices)
print(dict(mesh.shape))
print([sorted({d.slice_index for d in part.flat}) for part in mesh.devices])
try:
    parallel.make_mesh(MeshConfig(replica=1), slices.devices)
except UserError as error:
    print(error)
cube = topologies.get_topology_desc(
    "v5p:4x4x4", platform="tpu", chip_config_name="megacore", chips_per_host_bounds=(2, 2, 1)
)
print(parallel.make_mesh(MeshConfig(replica=2), cube.devices).devices.shape)
"""


@pytest.mark.aot
def test_meshes_follow_slices_and_torus():
    """Only the replica axis crosses between slices; an axis may be a part of one of the torus."""
    env = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True
    )
    shape, slices_of_replicas, refusal, split = done.stdout.splitlines()
    assert shape == "{'replica': 4, 'fsdp': 4, 'tensor': 2, 'context': 1}"
    assert slices_of_replicas == "[[0], [0], [1], [1]]"
    assert split == "(2, 32, 1, 1)"
    assert "config.mesh.replica=1 has to be a multiple of the 2 slices" in refusal
