"""Before the first step: what the devices cannot do is refused, what will happen is announced."""

import logging
import os

import jax

from sbp_jax import parallel
from sbp_jax.config import Experiment
from sbp_jax.errors import UserError
from sbp_jax.model import transformer

log = logging.getLogger(__name__)


def check_split(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    """Refuses what the mesh cannot split evenly."""
    m, t, length = mesh.shape, experiment.train, experiment.data.sequence_length
    rows = m["replica"] * m["fsdp"]
    if (t.batch_size // t.accumulate) % rows:
        raise UserError(
            f"config.train.batch_size={t.batch_size} in {t.accumulate} part(s) does not split over "
            f"config.mesh replica x fsdp = {rows} devices"
        )
    if length // experiment.model.loss_chunks % m["context"]:
        raise UserError(
            f"config.data.sequence_length={length} in {experiment.model.loss_chunks} loss chunk(s) "
            f"does not split over config.mesh.context={m['context']}"
        )
    axes = transformer.param_metadata(experiment.model, "axes")
    parallel.check_divisible(mesh, transformer.param_shapes(experiment.model), axes)


def check_memory(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    """Refuses what the devices cannot hold, before anything is allocated."""
    m = mesh.shape
    # Parameter, gradient and two moments, in float32: less than a step needs, so a refusal is
    # certain.
    need = 16 * transformer.num_params(experiment.model) / (m["fsdp"] * m["tensor"])
    have = device_memory(jax.local_devices()[0])
    if need > have:
        raise UserError(
            f"parameters, gradients and optimizer need at least {need / 2**30:.1f} GiB a device, "
            f"but each of the {mesh.size} {mesh.devices.flat[0].device_kind} device(s) has "
            f"{have / 2**30:.1f}; train on more devices or choose a smaller config"
        )


def device_memory(device: jax.Device) -> float:
    """Bytes that one device can hold; CPU devices share the machine's memory."""
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.local_device_count()
    return (device.memory_stats() or {}).get("bytes_limit", float("inf"))


def describe(experiment, mesh, loader, compiled, peak: float, peak_source: str, start: int) -> None:
    """What is about to happen, for a person who wants to stop it in time."""
    e, m = experiment, experiment.model
    memory = compiled.memory_analysis()
    expected = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    axes = [f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1]
    total = transformer.num_params(m)
    log.info(
        "model   %s parameters (%s without embeddings), %d layers, width %d, %s",
        f"{total:,}",
        f"{total - m.vocab_size * m.d_model * (1 if m.tie_embeddings else 2):,}",
        m.num_layers,
        m.d_model,
        transformer.compute_dtype(m),
    )
    log.info(
        "devices %d %s%s; %.2f GiB each expected; peak %s GFLOP/s each (%s)",
        mesh.size,
        mesh.devices.flat[0].device_kind,
        f" ({' x '.join(axes)})" if axes else "",
        expected / 2**30,
        f"{peak / 1e9:,.0f}",
        peak_source,
    )
    log.info(
        "budget  %s tokens: %d steps of %d x %d, from step %d",
        f"{e.train.tokens:,}",
        e.num_steps,
        e.train.batch_size,
        e.data.sequence_length,
        start,
    )
    for part in loader.describe():
        log.info(
            "data    %s: %s windows, %s unique tokens, %.2f passes",
            part["source"] if e.data.mixture else e.data.input,
            f"{part['windows']:,}",
            f"{part['unique_tokens']:,}",
            part["passes"],
        )
