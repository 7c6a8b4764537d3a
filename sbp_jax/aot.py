r"""Compiles the real train step for TPUs that are not here, and says whether it fits them.

    python -m sbp_jax.aot --config=configs/1t_6b.py --topology=v5p:8x8x8
    python -m sbp_jax.aot --config=configs/1t_6b.py --topology=v5p:8x8x8,v6e:16x16 --json
    python -m sbp_jax.aot --config=configs/1t_6b.py --config.mesh.replica=2 --topology=v5p:8x8x8 \
        --slices=2
    python -m sbp_jax.aot --config=configs/1t_6b.py --topology=v5p:2x2x1 --stage=synthesize

--stage names another stage's program: `tune`, `synthesize` (the engine jax: reading prompts, and
drawing), `embed` or `neighbors` (of so many --documents). These but `tune` run in one process, on
the chips of one host: v5p:2x2x1.

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

from sbp_jax import cli
from sbp_jax.config import Experiment
from sbp_jax.errors import UserError
from sbp_jax.stage_programs import STAGES, StageProgram
from sbp_jax.topology import parse
from sbp_jax.tpu_program import Program, UnreadableProgram, read_program
from sbp_jax.training import flops

TOPOLOGY = flags.DEFINE_list("topology", None, "TPUs by chip and torus: v5p:8x8x8, v6e:16x16.")
SLICES = flags.DEFINE_integer(
    "slices", 1, "Slices of that topology, joined by a slower network.", lower_bound=1
)
JSON = flags.DEFINE_bool("json", False, "Print one JSON object for each program, and no table.")
STAGE = flags.DEFINE_enum("stage", "pretrain", list(STAGES), "Whose program is compiled.")
DOCUMENTS = flags.DEFINE_integer(
    "documents", None, "Of the corpus, for --stage=neighbors.", lower_bound=2
)

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
    if (STAGE.value == "neighbors") != (DOCUMENTS.value is not None):
        raise UserError("--documents and --stage=neighbors go together: how many are searched")
    for topology in TOPOLOGY.value:
        describe_topology(topology, SLICES.value)  # a misspelt one, before any is compiled
    fits = True
    for topology in TOPOLOGY.value:
        for program in programs(experiment, topology, SLICES.value):
            log.info("%s: compiling for %d devices, a minute or two", topology, program.mesh.size)
            report: dict[str, Any] = {"topology": topology, "slices": SLICES.value}
            report |= compile_program(program)
            fits = fits and report["fits"]
            print(json.dumps(report) if JSON.value else table(report, program), flush=True)
    sys.exit(0 if fits else 1)


def programs(experiment: Experiment, topology: str, slices: int) -> Iterator[StageProgram]:
    devices, stage = describe_topology(topology, slices), STAGE.value
    arguments = [DOCUMENTS.value] if stage == "neighbors" else []
    return STAGES[stage](experiment, devices, *arguments)


def compile_program(program: StageProgram) -> dict[str, Any]:
    """What the compiler says of a stage's program on a TPU slice, or on several."""
    mesh, model_flops = program.mesh, program.model_flops
    device = mesh.devices.flat[0]
    kind = device.device_kind
    matmul_flops, kernel_flops = executed_flops(program.traced.jaxpr, mesh.size, program.turns)
    executed = matmul_flops + kernel_flops
    report: dict[str, Any] = {
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        **program.facts,
        "flops_per_step": executed,
        "model_flops_per_step": model_flops,
        "flops_ratio": round(executed / model_flops, 3),
        "hbm_limit_gib": HBM_GIB[kind],
    }
    start = time.perf_counter()
    try:
        compiled, read = compile_and_read(program)
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
            collectives=read and read.collectives,
        )
        if read and read.cycles and kind in CLOCK_HZ:
            # The compiler has no estimate for kernels: these are taken to run at the chip's peak.
            peak = flops.peak_flops(device)[0] * mesh.size
            seconds = read.cycles / CLOCK_HZ[kind] + kernel_flops / peak
            report["estimated_step_s"] = round(seconds, 4)
            report["estimated_mfu"] = round(model_flops / peak / seconds, 3)
    report["compile_s"] = round(time.perf_counter() - start, 1)
    return report


def compile_and_read(program: StageProgram) -> tuple[Any, Program | None]:
    """The program, and what its text says: as the compiler writes it into a folder, for JAX cannot
    print a program of this size for v5p and v6e.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        lowered = program.traced.lower(lowering_platforms=("tpu",))
        # In a thread, for the compiler does not hear a Ctrl-C.
        compiled = ThreadPoolExecutor(1).submit(lowered.compile, options).result()
        (path,) = Path(folder).glob("*.after_codegen.txt")
        try:
            return compiled, read_program(path.read_text(), program.turns)
        except UnreadableProgram as error:
            print(f"no collectives and no estimate: {error}", file=sys.stderr)
            return compiled, None


def describe_topology(topology: str, slices: int) -> list[Any]:
    """The devices of `v5p:8x8x8`, as the compiler knows them."""
    name, sizes = parsed = parse(topology)
    if parsed.chip.sizes == 1:
        raise UserError(f"--topology={topology}: TPUs alone can be compiled for from elsewhere")
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if name in ("v4", "v5p"):
        # Without megacore each chip shows two devices; without the wrap-around links of a full
        # cube, all-gathers become all-reduces.
        options |= {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}
        options |= {"wrap": tuple(size % 4 == 0 for size in sizes)}
    try:
        return topologies.get_topology_desc(topology, platform="tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology={topology}: {error}") from error


def executed_flops(jaxpr: Any, devices: int, turns: int | None) -> tuple[float, float]:
    """FLOPs of one step, recomputation included: of all matmuls, and of those in kernels.

    Counted in the traced program, since the compiler's own count takes a loop's body once. `turns`
    are those of a loop whose number is an argument of the program. Splash attention runs nine block
    products (two forward, three for the queries' gradient, four for the keys' and values') on the
    blocks at or below the diagonal.
    """
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars), True)
    counts = list(_matmuls(jaxpr, 1, {"shard_map": devices, "while": turns or 1}))
    return sum(n for n, kernel in counts if not kernel), sum(n for n, kernel in counts if kernel)


def out_of_memory(error: Exception) -> tuple[float, float]:
    """GiB that the program needs on each device, and that there are."""
    figures = re.findall(r"\b(\d+(?:\.\d+)?)([MGT])\b", str(error))
    if "RESOURCE_EXHAUSTED" not in str(error) or len(figures) < 2:
        raise error
    needed, limit = (float(n) * {"M": 2**-10, "G": 1, "T": 2**10}[u] for n, u in figures[:2])
    return round(needed, 2), round(limit, 2)


def table(report: dict[str, Any], program: StageProgram) -> str:
    r = report
    where = r["topology"] + (f" x {r['slices']}" if r["slices"] > 1 else "")
    verdict = "fits" if r["fits"] else f"DOES NOT FIT ({program.remedy})"
    memory = f"{r['hbm_gib_per_device']:.1f} of {r['hbm_limit_gib']:.1f} GiB"
    text = (
        f"{where}: {verdict}: {memory} on each of {r['devices']} devices, "
        f"{program.about}, {r['flops_ratio']:.2f} x the model's FLOPs"
    )
    if "estimated_step_s" in r:
        text += (
            f", an estimated {r['estimated_step_s']:.3g} s a step (MFU {r['estimated_mfu']:.0%})"
        )
    for kind, c in (r.get("collectives") or {}).items():
        text += f"\n    {kind}: {c['count']} a step, {c['bytes'] / 2**30:.3g} GiB"
    return f"{text}\n    compiled in {r['compile_s']:.0f} s"


def _matmuls(jaxpr: Any, times: int, turns: dict[str, int]) -> Iterator[tuple[float, bool]]:
    """FLOPs of each matmul under `jaxpr`, which runs `times` times; and whether in a kernel."""
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            yield 2.0 * times * math.prod(out) * math.prod(left[a] for a in contracted), False
        elif name == "pallas_call" and str(params["name"]).startswith("splash"):
            yield times * _splash_flops(equation), True
        elif name == "pallas_call":
            calls = times * math.prod(params["grid_mapping"].grid)
            yield sum(n for n, _ in _matmuls(params["jaxpr"], calls, turns)), True
        else:
            inner = {"scan": params.get("length"), **turns}.get(name, 1)
            for value in jax.tree.leaves(list(params.values()), is_leaf=_is_jaxpr):
                if _is_jaxpr(value):
                    yield from _matmuls(getattr(value, "jaxpr", value), times * inner, turns)


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
