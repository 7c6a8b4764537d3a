r"""Compiles the real train step for TPUs that are not here, and says whether it fits them.

    python -m sbp_jax.aot --config=configs/1t_6b.py --topology=v5p:8x8x8
    python -m sbp_jax.aot --config=configs/1t_6b.py --topology=v5p:8x8x8,v6e:16x16 --json
    python -m sbp_jax.aot --config=configs/1t_6b.py --config.mesh.replica=2 --topology=v5p:8x8x8 \
        --slices=2

Needs libtpu (the extra `tpu`) and no TPU: the compiler is the one that runs on the pod, so its
figures for memory are the real ones. Exit 0 when the step fits every topology named, 1 when not.

Collectives are counted with each device's bytes. The time of a step is the compiler's own estimate,
without what the chips wait for each other: good for comparing settings, not to be relied upon.
"""

import json
import logging
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Before JAX is imported. libtpu would look for a TPU, wait for a server that names its host, and
# complain that there is none.
os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
os.environ.update(TPU_ACCELERATOR_TYPE="v5p-8", TPU_WORKER_HOSTNAMES="localhost")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # a program from there has no text
os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")

import jax
import jax.numpy as jnp
from absl import flags
from jax.experimental import topologies
from jax.interpreters import partial_eval

from sbp_jax import cli, parallel
from sbp_jax.config import Experiment
from sbp_jax.errors import UserError
from sbp_jax.model import transformer
from sbp_jax.tpu_program import Program, UnreadableProgram, read_program
from sbp_jax.training import flops
from sbp_jax.training.preflight import check_split
from sbp_jax.training.step import trace_train_step

TOPOLOGY = flags.DEFINE_list("topology", None, "TPUs by chip and torus: v5p:8x8x8, v6e:16x16.")
SLICES = flags.DEFINE_integer(
    "slices", 1, "Slices of that topology, joined by a slower network.", lower_bound=1
)
JSON = flags.DEFINE_bool("json", False, "Print one JSON object for each topology, and no table.")

log = logging.getLogger(__name__)

# The clock, from which the compiler's cycles become seconds: the published peak over the FLOPs that
# the chip's matrix units do in a cycle.
CLOCK_HZ = {"TPU v4": 1.05e9, "TPU v5": 1.75e9, "TPU v5 lite": 1.5e9, "TPU v6 lite": 1.75e9}

# What the compiler lets a program use of a device's memory, by JAX's device_kind.
HBM_GIB = {
    "TPU v4": 31.24,
    "TPU v5": 95.74,
    "TPU v5 lite": 15.75,
    "TPU v6 lite": 31.25,
    "TPU7x": 94.74,
}


def main() -> None:
    experiment = cli.experiment()
    if find_spec("libtpu") is None:
        raise UserError('libtpu, the TPU compiler, is missing: pip install "sbp-jax[tpu]"')
    if not TOPOLOGY.value:
        raise UserError("--topology is empty; for example v5p:8x8x8")
    for topology in TOPOLOGY.value:
        describe_topology(topology, SLICES.value)  # a misspelt one, before any is compiled
    reports = []
    for topology in TOPOLOGY.value:
        report = compile_step(experiment, topology, SLICES.value)
        reports.append(report)
        print(json.dumps(report) if JSON.value else table(report), flush=True)
    sys.exit(0 if all(report["fits"] for report in reports) else 1)


def compile_step(experiment: Experiment, topology: str, slices: int = 1) -> dict[str, Any]:
    """What the compiler says of the train step on a TPU slice, or on several."""
    devices = describe_topology(topology, slices)
    mesh = parallel.make_mesh(experiment.mesh, devices)
    check_split(experiment, mesh)
    traced = trace_train_step(experiment, mesh)
    e, kind = experiment, devices[0].device_kind
    model_flops = flops.flops_per_token(e.model, e.data.sequence_length) * e.tokens_per_step
    matmul_flops, kernel_flops = executed_flops(traced.jaxpr, mesh.size)
    executed = matmul_flops + kernel_flops
    report: dict[str, Any] = {
        "topology": topology,
        "slices": slices,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "params": transformer.num_params(e.model),
        "sequences_per_device": e.train.batch_size / e.train.accumulate / mesh.size,
        "remat": e.model.remat,
        "loss_chunks": e.model.loss_chunks,
        "flops_per_step": executed,
        "model_flops_per_step": model_flops,
        "flops_ratio": round(executed / model_flops, 3),
        "hbm_limit_gib": HBM_GIB[kind],
    }
    log.info("%s: compiling for %d devices, a minute or two", topology, mesh.size)
    start = time.perf_counter()
    try:
        compiled, program = compile_and_read(traced)
    except jax.errors.JaxRuntimeError as error:
        needed, limit = out_of_memory(error)
        report.update(fits=False, hbm_gib_per_device=needed, hbm_limit_gib=limit)
    else:
        m = compiled.memory_analysis()
        used = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
        used += m.temp_size_in_bytes
        report.update(
            fits=True,
            hbm_gib_per_device=round(used / 2**30, 2),
            state_gib_per_device=round(m.argument_size_in_bytes / 2**30, 2),
            collectives=program and program.collectives,
        )
        if program and program.cycles and kind in CLOCK_HZ:
            # The compiler has no estimate for kernels: these are taken to run at the chip's peak.
            peak = flops.peak_flops(devices[0])[0] * mesh.size
            seconds = program.cycles / CLOCK_HZ[kind] + kernel_flops / peak
            report["estimated_step_s"] = round(seconds, 4)
            report["estimated_mfu"] = round(model_flops / peak / seconds, 3)
    report["compile_s"] = round(time.perf_counter() - start, 1)
    return report


def compile_and_read(traced: jax.stages.Traced) -> tuple[Any, Program | None]:
    """The program, and what its text says: as the compiler writes it into a folder, for JAX cannot
    print a program of this size for v5p and v6e.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        lowered = traced.lower(lowering_platforms=("tpu",))
        # In a thread, for the compiler does not hear a Ctrl-C.
        compiled = ThreadPoolExecutor(1).submit(lowered.compile, options).result()
        (path,) = Path(folder).glob("*.after_codegen.txt")
        try:
            return compiled, read_program(path.read_text())
        except UnreadableProgram as error:
            print(f"no collectives and no estimate: {error}", file=sys.stderr)
            return compiled, None


def describe_topology(topology: str, slices: int) -> list[Any]:
    """The devices of `v5p:8x8x8`, as the compiler knows them."""
    match = re.fullmatch(
        r"(v4|v5p|tpu7x):([1-9]\d*(?:x[1-9]\d*){2})|(v5e|v6e):([1-9]\d*x[1-9]\d*)", topology
    )
    if not match:
        raise UserError(
            f"--topology={topology}: write it as CHIP:TORUS: v4, v5p or tpu7x with three sizes, as "
            "in v5p:8x8x8; v5e or v6e with two, as in v6e:16x16"
        )
    sizes = [int(size) for size in topology.split(":")[1].split("x")]
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if match[1] in ("v4", "v5p"):
        # Without megacore each chip shows two devices; without the wrap-around links of a full
        # cube, all-gathers become all-reduces.
        options |= {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}
        options |= {"wrap": tuple(size % 4 == 0 for size in sizes)}
    try:
        return topologies.get_topology_desc(topology, platform="tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology={topology}: {error}") from error


def executed_flops(jaxpr: Any, devices: int) -> tuple[float, float]:
    """FLOPs of one step, recomputation included: of all matmuls, and of the attention kernels.

    Counted in the traced program, since the compiler's own count takes a loop's body once. Splash
    attention runs nine block products (two forward, three for the queries' gradient, four for the
    keys' and values') on the blocks at or below the diagonal.
    """
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars), True)
    counts = list(_matmuls(jaxpr, 1, devices))
    return sum(n for n, kernel in counts if not kernel), sum(n for n, kernel in counts if kernel)


def out_of_memory(error: Exception) -> tuple[float, float]:
    """GiB that the program needs on each device, and that there are."""
    figures = re.findall(r"\b(\d+(?:\.\d+)?)([MGT])\b", str(error))
    if "RESOURCE_EXHAUSTED" not in str(error) or len(figures) < 2:
        raise error
    needed, limit = (float(n) * {"M": 2**-10, "G": 1, "T": 2**10}[u] for n, u in figures[:2])
    return round(needed, 2), round(limit, 2)


def table(report: dict[str, Any]) -> str:
    r = report
    where = r["topology"] + (f" x {r['slices']}" if r["slices"] > 1 else "")
    verdict = "fits" if r["fits"] else "DOES NOT FIT (raise train.accumulate, lower model.remat)"
    memory = f"{r['hbm_gib_per_device']:.1f} of {r['hbm_limit_gib']:.1f} GiB"
    text = (
        f"{where}: {verdict}: {memory} on each of {r['devices']} devices, "
        f"{r['sequences_per_device']:g} sequences a device, remat {r['remat']}, "
        f"{r['flops_ratio']:.2f} x the model's FLOPs"
    )
    if "estimated_step_s" in r:
        text += (
            f", an estimated {r['estimated_step_s']:.3g} s a step (MFU {r['estimated_mfu']:.0%})"
        )
    for kind, c in (r.get("collectives") or {}).items():
        text += f"\n    {kind}: {c['count']} a step, {c['bytes'] / 2**30:.3g} GiB"
    return f"{text}\n    compiled in {r['compile_s']:.0f} s"


def _matmuls(jaxpr: Any, times: int, devices: int) -> Iterator[tuple[float, bool]]:
    """FLOPs of each matmul under `jaxpr`, which runs `times` times; and whether in a kernel."""
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            yield 2.0 * times * math.prod(out) * math.prod(left[a] for a in contracted), False
        elif name == "pallas_call":
            yield times * _splash_flops(equation), True
        else:
            inner = {"scan": params.get("length"), "shard_map": devices}.get(name, 1)
            for value in jax.tree.leaves(list(params.values()), is_leaf=_is_jaxpr):
                if _is_jaxpr(value):
                    yield from _matmuls(getattr(value, "jaxpr", value), times * inner, devices)


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")


def _splash_flops(equation: Any) -> float:
    """One call on one device: the block products of its kind, on and below the diagonal."""
    kind = equation.params["name"].split("_")[2]
    products = {"fwd": 2, "dq": 3, "dkv": 4}[kind]
    # Queries and keys come first: [batch, heads, time, width], without the batch if it is one.
    floats = [v.aval for v in equation.invars if jnp.issubdtype(v.aval.dtype, jnp.floating)]
    (*outer, queries, width), (*_, keys, _) = (aval.shape for aval in floats[:2])
    block = min(512, keys)
    return products * 2.0 * math.prod(outer) * width * queries * (keys + block) / 2


if __name__ == "__main__":
    cli.run(main, needs=("config", "topology"))
