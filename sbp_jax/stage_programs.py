"""What each stage of the loop runs on accelerators: its program, traced for devices not at hand.

Traced by the stages' own code, so that what `sbp_jax.aot` compiles is what the stage will run; only
arrays are replaced by their shapes.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sbp_jax import parallel
from sbp_jax.config import Experiment, MeshConfig, ModelConfig
from sbp_jax.errors import UserError
from sbp_jax.inference import decode
from sbp_jax.inference.sampler import Sampler
from sbp_jax.interop.huggingface import model_config_from_hf
from sbp_jax.model import transformer
from sbp_jax.model.cache import RUN
from sbp_jax.pairing import hidden, ring
from sbp_jax.reinforcement.policy import trace_update
from sbp_jax.reinforcement.run import grpo_run
from sbp_jax.synthesis.tuning import tuning_run
from sbp_jax.training import flops
from sbp_jax.training.preflight import check_split
from sbp_jax.training.step import trace_train_step

Devices = Sequence[Any]


class StageProgram(NamedTuple):
    traced: jax.stages.Traced
    mesh: Mesh
    model_flops: float  # of one call: a step
    facts: dict[str, Any]  # what else a report says of it
    about: str  # the same for people
    remedy: str  # for what does not fit
    turns: int | None = None  # of its loops whose number of turns is an argument


def pretrain(experiment: Experiment, devices: Devices) -> Iterator[StageProgram]:
    e = experiment
    mesh = parallel.make_mesh(e.mesh, devices)
    check_split(e, mesh)
    sequences = e.train.batch_size / e.train.accumulate / mesh.size
    facts = {
        "params": transformer.num_params(e.model),
        "sequences_per_device": sequences,
        "remat": e.model.remat,
        "loss_chunks": e.model.loss_chunks,
    }
    yield StageProgram(
        trace_train_step(e, mesh),
        mesh,
        flops.flops_per_token(e.model, e.data.sequence_length) * e.tokens_per_step,
        facts,
        f"{sequences:g} sequences a device, remat {e.model.remat}",
        "raise train.accumulate, lower model.remat",
    )


def tune(experiment: Experiment, devices: Devices) -> Iterator[StageProgram]:
    """The step of `synthesis.tuning`: its rows are the pretraining's in shape, and fewer."""
    stores = {"train": "pairs", "held_out": "pairs"}
    for program in pretrain(tuning_run(experiment, stores, "", ""), devices):
        yield program._replace(facts={"stage": "tune", **program.facts})


def grpo(experiment: Experiment, devices: Devices) -> Iterator[StageProgram]:
    """An update of `reinforcement.policy`; drawing is what `synthesize` runs."""
    e = grpo_run(experiment, "weights")
    mesh = parallel.make_mesh(e.mesh, devices)
    check_split(e, mesh)
    texts = e.train.batch_size / e.train.accumulate / mesh.size
    yield StageProgram(
        trace_update(e, mesh),
        mesh,
        flops.flops_per_token(e.model, e.data.sequence_length) * e.tokens_per_step,
        {"stage": "grpo", "params": transformer.num_params(e.model), "texts_per_device": texts},
        f"{texts:g} texts a device, remat {e.model.remat}",
        "raise train.accumulate, lower model.remat",
    )


def synthesize(experiment: Experiment, devices: Devices) -> Iterator[StageProgram]:
    """The engine jax: the longest prompts read; a run of tokens drawn in rows that are all full."""
    e, model = experiment, experiment.model
    mesh = parallel.make_mesh(MeshConfig(replica=-1, fsdp=1, tensor=e.engine.tensor), devices)
    unrun = _Unrun(e, mesh)
    facts = {"stage": "synthesize", "params": transformer.num_params(model)}
    for rows, length, turns, traced in unrun.programs():
        name, tokens = ("decode", rows * turns) if turns else ("prefill", rows * length)
        yield StageProgram(
            traced,
            mesh,
            _forward(model, length, tokens, scored=tokens if turns else rows),
            {**facts, "program": name, "rows": rows, "length": length, "tokens_per_step": tokens},
            f"{name}: {tokens:,} tokens a step in {rows} rows of {length:,}",
            "lower engine.batch_size or engine.max_length, raise engine.tensor",
            turns,
        )


def embed(experiment: Experiment, devices: Devices) -> Iterator[StageProgram]:
    """Of the longest class of documents."""
    model, last = _embedder(experiment), experiment.pairing.embedder == "qwen3"
    mesh, length = parallel.make_mesh(MeshConfig(), devices), experiment.pairing.max_tokens
    rows = max(hidden.MANY_TOKENS // length, 1) * mesh.size
    layout = parallel.shardings(mesh, transformer.param_metadata(model, "axes"))
    params = jax.tree.map(_shape, transformer.param_shapes(model), layout)
    ids, lengths = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
    with jax.set_mesh(mesh):
        traced = hidden._pool.trace(model, last, int(not last), params, ids, lengths)
    yield StageProgram(
        traced,
        mesh,
        _forward(model, length, rows * length, scored=0),
        {
            "stage": "embed",
            "params": transformer.num_params(model),
            "rows": rows,
            "length": length,
            "tokens_per_step": rows * length,
        },
        f"{rows} documents of {length:,} tokens a step",
        "lower pairing.max_tokens",
    )


def neighbors(experiment: Experiment, devices: Devices, documents: int) -> Iterator[StageProgram]:
    """The whole search of every document's neighbours among all, in one program."""
    pairing = experiment.pairing
    width = experiment.model.d_model if pairing.embedder == "self" else pairing.dimensions
    mesh = Mesh(np.array(devices), (ring.AXIS,))
    yield StageProgram(
        ring.trace(mesh, documents, documents, width, pairing.neighbors, jnp.bfloat16),
        mesh,
        2.0 * documents**2 * width,
        {"stage": "neighbors", "documents": documents, "dimensions": width},
        f"{documents:,} documents of {width:,} dimensions",
        "take more chips",
    )


STAGES: dict[str, Callable[..., Iterator[StageProgram]]] = {
    "pretrain": pretrain,
    "tune": tune,
    "grpo": grpo,
    "synthesize": synthesize,
    "embed": embed,
    "neighbors": neighbors,
}


def _forward(model: ModelConfig, length: int, tokens: int, scored: int) -> float:
    """Model FLOPs of reading tokens, in rows of this length, with logits for some of them."""
    logits = 2.0 * model.d_model * model.vocab_size
    return flops.flops_per_token(model, length) / 3 * tokens - logits * (tokens - scored)


def _embedder(experiment: Experiment) -> ModelConfig:
    pairing = experiment.pairing
    if pairing.embedder == "self":
        return experiment.model
    if pairing.embedder == "lexical":
        raise UserError("config.pairing.embedder=lexical has no model, so nothing to compile")
    path = Path(pairing.model) / "config.json"
    if not path.exists():
        raise UserError(f"config.pairing.model: no {path}, which says what to compile: fetch it")
    return model_config_from_hf(json.loads(path.read_text()))


class _Unrun(Sampler):
    """The engine, with shapes for its parameters and its cache: what it would run is compiled."""

    def __init__(self, experiment: Experiment, mesh: Mesh):
        e = experiment
        layout = parallel.shardings(mesh, transformer.param_metadata(e.model, "axes"))
        ids: Any = SimpleNamespace(vocab_size=e.model.vocab_size)
        super().__init__(
            e.model,
            jax.tree.map(_shape, transformer.param_shapes(e.model), layout),
            ids,
            max_length=e.engine.max_length or e.data.sequence_length,
            batch_size=e.engine.batch_size,
            mesh=mesh,
        )

    def run(self, program, *arguments):
        """Shapes of the results, which lie where the compiled program puts them."""
        traced = self.trace(program, *arguments)
        compiled = traced.lower(lowering_platforms=("tpu",)).compile()
        return jax.tree.map(_shape, traced.out_info, compiled.output_shardings)

    def trace(self, program, *arguments) -> jax.stages.Traced:
        with jax.set_mesh(self.mesh):
            return program.trace(*arguments)

    def programs(self) -> Iterator[tuple[int, int, int | None, jax.stages.Traced]]:
        """Rows, length, turns and what is traced."""
        how, length = self._how(()), self.max_length
        rows = self._together(length)
        ids, lengths = np.zeros((rows, length), np.int32), np.ones(rows, np.int32)
        prompts = self.trace(decode.prefill, *how, decode.idle(rows), ids, lengths)
        yield rows, length, None, prompts
        rows, empty = self.batch_size, self.run(decode.new_cache, self.config, self.batch_size)
        full = self._with_blocks(empty, self._blocks(length + RUN))
        yield rows, length, RUN, self.trace(decode.decode, *how, decode.idle(rows), full, RUN)


def _shape(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
