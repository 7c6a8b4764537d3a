"""Devices: processes, the mesh, and the one table that says how every array is laid out on it.

Arrays name their axes (`"batch"`, `"heads"`, ...); `AXES` maps the names to mesh axes. The mesh is
in Auto mode: `constrain` states the layouts that matter and the compiler derives the rest
(docs/architecture.md says why not Explicit).
"""

import glob
import logging
import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sbp_jax.config import MeshConfig
from sbp_jax.errors import UserError

log = logging.getLogger(__name__)

MESH_AXES = ("replica", "fsdp", "tensor", "context")

AXES: Mapping[str, Any] = {
    # activations
    "batch": ("replica", "fsdp"),
    "time": "context",
    # parameters (and the activations that share these axes)
    "width": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "head_dim": None,
    "norm": None,
    "layers": None,
}


def start_processes() -> None:
    """Joins the other processes of this run, if the environment says that there are any.

    Our own three variables (launch/local.sh sets them) come first, then what JAX recognises: Slurm,
    Open MPI, TPUs in Google's cloud. Has to run before the first use of a device.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    env = os.environ
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    other_plugins = entry_points(group="jax_plugins")
    if find_spec("libtpu") and not chips and not other_plugins and "JAX_PLATFORMS" not in env:
        # Installed to compile for TPUs elsewhere: asked for devices, it only complains.
        log.info("libtpu is installed, but there is no TPU: running on the CPU")
        jax.config.update("jax_platforms", "cpu")
    if "JAX_COORDINATOR_ADDRESS" in env:
        try:
            count, index = int(env["JAX_NUM_PROCESSES"]), int(env["JAX_PROCESS_ID"])
        except (KeyError, ValueError) as error:
            raise UserError(
                "JAX_COORDINATOR_ADDRESS is set, so JAX_NUM_PROCESSES and JAX_PROCESS_ID have to "
                "be whole numbers"
            ) from error
        jax.distributed.initialize(env["JAX_COORDINATOR_ADDRESS"], count, index)
    elif (
        int(env.get("SLURM_NTASKS", "1")) > 1
        and "SLURM_PROCID" in env
        or int(env.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        or len(env.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
        or "MEGASCALE_COORDINATOR_ADDRESS" in env
        or chips
    ):
        jax.distributed.initialize()
    if jax.process_index():
        logging.getLogger("sbp_jax").setLevel(logging.WARNING)  # the first one speaks for all


def make_mesh(config: MeshConfig, devices=None) -> Mesh:
    """The mesh over all devices (or those given), with Auto axes."""
    devices = jax.devices() if devices is None else devices
    if config.platform and devices[0].platform != config.platform:
        raise UserError(
            f"config.mesh.platform is {config.platform!r} but JAX found {len(devices)} "
            f"{devices[0].platform} device(s); install the extra for your accelerator (tpu, cuda), "
            "or choose a config for this machine"
        )
    sizes = [getattr(config, axis) for axis in MESH_AXES]
    shown = " x ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
        raise UserError(f"config.mesh: {shown}: sizes are positive, and at most one of them is -1")
    known = int(np.prod([s for s in sizes if s != -1]))
    if len(devices) % known or (-1 not in sizes and known != len(devices)):
        problem = "does not divide" if -1 in sizes else "is not"
        raise UserError(
            f"config.mesh: {shown}: {known} {problem} the number of devices, {len(devices)}; give "
            f"other sizes, for example --config.mesh.replica=1 --config.mesh.fsdp={len(devices)}"
        )
    sizes = [len(devices) // known if s == -1 else s for s in sizes]
    auto = (AxisType.Auto,) * len(MESH_AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1 or (devices[0].platform != "tpu" and sizes[0] % slices):
        try:
            return jax.make_mesh(sizes, MESH_AXES, axis_types=auto, devices=devices)
        except NotImplementedError:  # no whole axes of the TPU's torus have these sizes
            grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
            return Mesh(grid, MESH_AXES, axis_types=auto)
    if sizes[0] % slices:
        raise UserError(
            f"config.mesh.replica={sizes[0]} has to be a multiple of the {slices} slices: only "
            "that axis may cross the slow network between them"
        )
    within = [sizes[0] // slices, *sizes[1:]]
    across = [slices] + [1] * (len(sizes) - 1)
    grid = mesh_utils.create_hybrid_device_mesh(
        within, across, devices, allow_split_physical_axes=True
    )
    return Mesh(grid, MESH_AXES, axis_types=auto)


def platform() -> str:
    """What the program being traced will run on: the ambient mesh's devices, or JAX's default."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def spec(*axes: str | None) -> PartitionSpec:
    return PartitionSpec(*(None if axis is None else AXES[axis] for axis in axes))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Fixes the layout of an array inside a jitted function; nothing outside of a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(*axes))


def shardings(mesh: Mesh, axes: Any) -> Any:
    """A tree of axis-name tuples to a tree of shardings."""
    is_axes = lambda x: isinstance(x, tuple)  # noqa: E731
    return jax.tree.map(lambda names: NamedSharding(mesh, spec(*names)), axes, is_leaf=is_axes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, spec("batch", "time"))


def check_divisible(mesh: Mesh, shapes: Any, axes: Any) -> None:
    """Refuses a mesh that cannot split some parameter evenly, before anything is allocated."""
    flat_shapes = jax.tree_util.tree_flatten_with_path(shapes)[0]
    flat_axes = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple))
    for (path, leaf), names in zip(flat_shapes, flat_axes, strict=True):
        for size, axis, mesh_axes in zip(leaf.shape, names, spec(*names), strict=True):
            for mesh_axis in (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ():
                if size % mesh.shape[mesh_axis]:
                    raise UserError(
                        f"config.mesh.{mesh_axis}={mesh.shape[mesh_axis]} does not divide "
                        f"{axis}={size} of parameter {jax.tree_util.keystr(path)}"
                    )
