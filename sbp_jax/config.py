"""Every field of an experiment: its type, its default, its meaning, and what combinations are
refused.

The dataclasses are the truth. A config file edits the `ConfigDict` that `new_config()` makes of
them, flags override it (`--config.train.tokens=...`), and `resolve()` turns the result back into
frozen, validated dataclasses, which is what the rest of the code sees.
"""

import dataclasses
import difflib
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from sbp_jax.errors import UserError

if TYPE_CHECKING:  # the step and the model need the dataclasses only
    from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A Llama 3 decoder with per-head QK-norm. The first group of fields is its architecture."""

    num_layers: int = 4
    d_model: int = 128
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    d_ff: int = 384
    vocab_size: int = 1024
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5
    qk_norm: bool = True  # RMSNorm of each query and key head before RoPE
    tie_embeddings: bool = True
    attention_bias: bool = False  # Qwen2.5: biases on the query, key and value projections
    rope_scaling: float = 1.0  # Llama 3.1: factor by which low frequencies are slowed; 1 is off
    rope_scaling_low: float = 1.0  # wavelengths above original_context / low are slowed in full
    rope_scaling_high: float = 4.0  # wavelengths below original_context / high are left alone
    rope_original_context: int = 8192
    parametrization: str = (
        "standard"  # or mup_simple: rates and logits scale with width / mup_base_width
    )
    mup_base_width: int = 128

    # How it is computed: free to change between runs of one checkpoint.
    dtype: str = "auto"  # of activations and matmuls: bfloat16, float32; auto is float32 on CPU
    attention: str = (
        "auto"  # xla | splash (TPU) | cudnn, triton (GPU); auto picks the backend's best
    )
    remat: str = "none"  # what the backward pass keeps: see transformer.REMAT_POLICIES
    scan_layers: bool = (
        True  # one compiled layer, looped; unrolled, a small model is a fifth faster on CPUs
    )
    loss_chunks: int = 1  # pieces of the sequence whose logits exist at one time


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 (one axis at most) takes what the others leave."""

    replica: int = 1  # copies of the model; across slices or nodes with a slow network between them
    fsdp: int = -1  # batch and parameters are both split
    tensor: int = 1  # heads, MLP width and vocabulary are split
    context: int = 1  # the sequence is split
    platform: str = ""  # cpu | gpu | tpu: refuse to start on any other; empty takes what is there


@dataclasses.dataclass(frozen=True)
class Source:
    """One part of a mixture of training data."""

    input: str = ""  # as data.input
    weight: float = 1.0  # share of the training tokens, relative to the other sources
    max_passes: float = (
        0.0  # refuse to repeat it more often than this; 0 is as often as its share needs
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    input: str = (
        "toyworld"  # toyworld, docstrings, file, folder, glob, hf:NAME, seqio:NAME, or a TokenStore
    )
    mixture: Mapping[str, Source] = dataclasses.field(
        default_factory=dict
    )  # several sources in place of input
    text_field: str = "text"  # of JSONL and Parquet rows
    on_error: str = "stop"  # or skip: malformed rows are counted and left out
    held_out: float = 0.02  # share of the documents kept for evaluation when eval.input is empty
    tokenizer: str = (
        ""  # a .model file, a Hugging Face folder, seqio:FILE; empty trains one of model.vocab_size
    )
    tokenizer_kind: str = "bpe"  # or unigram: what to train
    sequence_length: int = 128
    document_mask: bool = True  # packed documents do not see each other
    workers: int = 2  # processes that tokenize, threads that read ahead


@dataclasses.dataclass(frozen=True)
class ToyWorldConfig:
    """The embedded corpus (data/toyworld.py)."""

    concepts: int = 300  # half of them people; the others places, organisations and things
    documents: int = 3000  # about 80 tokens each with a vocabulary of 1,024
    held_out_documents: int = 200
    fresh_documents: int = 40_000  # of a stream that no other split sees: the oracle's data
    zipf: float = 0.7  # P(concept) ~ rank^-zipf: the rarest of 300 has about 3 of 3,000 documents
    noise: float = 0.03  # probability that a stated fact is wrong
    ambiguous: float = 0.3  # share of documents that keep the full name of their concept back
    seed: int = 0  # of the world itself, so that runs of several seeds share one


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    name: str = "adamw"  # or muon: orthogonalised momentum for matrices, AdamW for the rest
    peak_lr: float = 3e-3
    final_lr: float = 3e-4
    schedule: str = "cosine"  # or wsd: warm-up, stable, linear decay; or constant
    warmup: str = "5%"  # of the run; or "2000 steps", "1e9 tokens"
    decay: str = "20%"  # the last part of a wsd schedule, in the same units
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1  # decoupled; matrices only, not embeddings, norms or biases
    clip_norm: float = 1.0  # of the whole gradient; 0 is off
    muon_lr: float = 0.02  # peak for the matrices under muon; follows the same schedule
    muon_beta: float = 0.95


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    tokens: int = 400 * 4096  # the budget: a whole number of steps of batch_size x sequence_length
    batch_size: int = 32  # sequences a step, over all devices
    accumulate: int = 1  # the batch is computed in this many parts; the loss does not depend on it
    z_loss: float = 1e-4  # weight of log(Z)^2, which keeps logits from drifting
    log_every: int = 10
    max_skipped: int = 20  # stop after this many non-finite gradients in a row
    spike_factor: float = 2.0  # a loss this many times its running mean is logged as a spike
    profile_steps: str = ""  # "100-110": capture these into the workdir's profile folder
    tensorboard: bool = True
    wandb: str = ""  # project to log to, if any
    samples: int = 3  # texts sampled and printed at the end


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int = 100
    keep: int = 2  # newest ones
    keep_every_steps: int = 0  # and every M-th step for good; 0 is none


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    every_steps: int = 100  # and at the end; 0 is at the end only
    input: str = ""  # as data.input; empty holds out a part of data.input
    max_sequences: int = 512


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One file describes a whole experiment; each stage reads its own section."""

    seed: int = 0
    init_from: str = ""  # the run or checkpoint whose weights this one begins with: --init_from
    model: ModelConfig = ModelConfig()
    mesh: MeshConfig = MeshConfig()
    data: DataConfig = DataConfig()
    toyworld: ToyWorldConfig = ToyWorldConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()

    @property
    def tokens_per_step(self) -> int:
        return self.train.batch_size * self.data.sequence_length

    @property
    def num_steps(self) -> int:
        return self.train.tokens // self.tokens_per_step


def new_config() -> "ConfigDict":
    """The defaults, ready to be edited by a config file."""
    from ml_collections import ConfigDict

    config = ConfigDict(dataclasses.asdict(Experiment()))
    config.data.mixture.unlock()
    return config


def resolve(config: "ConfigDict") -> Experiment:
    """The experiment that a config describes; `UserError` names what is wrong with it."""
    experiment = _build(Experiment, config.to_dict(), "config")
    validate(experiment)
    return experiment


def from_json(text: str) -> Experiment:
    return _build(Experiment, json.loads(text), "config")


def to_json(experiment: Experiment) -> str:
    return json.dumps(dataclasses.asdict(experiment), indent=2) + "\n"


def differences(recorded: str, new: Experiment) -> list[str]:
    """One line for each field whose value is not the one in a recorded config.json, which another
    version may have written.
    """

    def flatten(value: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {prefix: value}
        return {
            k: v for key, item in value.items() for k, v in flatten(item, f"{prefix}.{key}").items()
        }

    a, b = (flatten(json.loads(text), "config") for text in (recorded, to_json(new)))
    return [f"{k}: {a.get(k)!r} -> {b.get(k)!r}" for k in {**a, **b} if a.get(k) != b.get(k)]


def unknown_field(name: str, path: str = "config", fields: list[str] | None = None) -> str:
    """The message for a misspelt field: names the nearest real one."""
    if fields is None:
        everywhere = dataclasses.asdict(Experiment())
        fields = [
            *everywhere,
            *(f for section in everywhere.values() if isinstance(section, dict) for f in section),
        ]
    near = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)
    return f"{path} has no field {name!r}; did you mean {near[0]!r}?"


def arm_and_words(argument: str, *known: str) -> list[str]:
    """The words after the colon of `--config=FILE:words`, checked against those that the file
    knows.
    """
    words = [word for word in argument.split(",") if word]
    for word in words:
        if word not in known:
            raise UserError(
                f"config argument {word!r} is not known; this file takes: {', '.join(known)}"
            )
    return words


def duration(text: str, experiment: Experiment) -> int:
    """Steps meant by "5%", "2000 steps" or "1e9 tokens"."""
    number = r"\d+(?:_\d+)*(?:\.\d*)?(?:[eE][+-]?\d+)?"
    form = re.fullmatch(rf"\s*({number})\s*(%|steps?|tokens?)\s*", text)
    value, unit = (float(form[1]), form[2]) if form else (math.inf, "")
    if unit == "%" and value <= 100:
        return round(experiment.num_steps * value / 100)
    if unit.startswith("step") and value < math.inf:
        return round(value)
    if unit.startswith("token") and value < math.inf:
        return round(value / experiment.tokens_per_step)
    raise UserError(f"duration {text!r} is none of the forms '5%', '2000 steps', '1e9 tokens'")


def validate(e: Experiment) -> None:
    """Refuses, before any work, what could only fail later."""
    m, d, o, t = e.model, e.data, e.optimizer, e.train
    for needs, holds, fields in _BOUNDS:
        for field in fields.split():
            value = operator.attrgetter(field)(e)
            if not (holds(value) and value < math.inf):
                raise UserError(f"config.{field} is {value}; it has to be {needs}")
    if not -(2**31) <= e.seed < 2**31:
        raise UserError(
            f"config.seed is {e.seed}; it has to lie within -2**31 and 2**31 - 1, for JAX ignores "
            "the bits above"
        )
    for field, value, allowed in (
        ("model.parametrization", m.parametrization, ("standard", "mup_simple")),
        ("model.dtype", m.dtype, ("auto", "float32", "bfloat16")),
        ("model.attention", m.attention, ("auto", "xla", "splash", "cudnn", "triton")),
        ("model.remat", m.remat, ("none", "full", "qkv", "attention", "minimal")),
        ("mesh.platform", e.mesh.platform, ("", "cpu", "gpu", "tpu")),
        ("data.on_error", d.on_error, ("stop", "skip")),
        ("data.tokenizer_kind", d.tokenizer_kind, ("bpe", "unigram")),
        ("optimizer.name", o.name, ("adamw", "muon")),
        ("optimizer.schedule", o.schedule, ("cosine", "wsd", "constant")),
    ):
        if value not in allowed:
            raise UserError(
                f"config.{field} is {value!r}; it is one of: {', '.join(map(repr, allowed))}"
            )
    if m.num_heads % m.num_kv_heads:
        raise UserError(
            f"config.model.num_heads={m.num_heads} is not a multiple of "
            f"config.model.num_kv_heads={m.num_kv_heads}"
        )
    if m.rope_scaling_low >= m.rope_scaling_high:
        raise UserError(
            f"config.model.rope_scaling_low={m.rope_scaling_low} has to be below "
            f"config.model.rope_scaling_high={m.rope_scaling_high}"
        )
    if m.head_dim % 2:
        raise UserError(
            f"config.model.head_dim={m.head_dim} is odd; RoPE turns pairs, so it has to be even"
        )
    if d.sequence_length % m.loss_chunks:
        raise UserError(
            f"config.model.loss_chunks={m.loss_chunks} does not divide "
            f"config.data.sequence_length={d.sequence_length}"
        )
    if t.batch_size % t.accumulate:
        raise UserError(
            f"config.train.accumulate={t.accumulate} does not divide "
            f"config.train.batch_size={t.batch_size}"
        )
    if t.tokens % e.tokens_per_step:
        down = t.tokens // e.tokens_per_step * e.tokens_per_step
        near = " or ".join(str(n) for n in (down, down + e.tokens_per_step) if n)
        raise UserError(
            f"config.train.tokens={t.tokens} is no whole number of steps of {e.tokens_per_step} "
            f"tokens (config.train.batch_size={t.batch_size} x "
            f"config.data.sequence_length={d.sequence_length}); use {near}"
        )
    if not 0 <= o.final_lr <= o.peak_lr:
        raise UserError(
            f"config.optimizer.final_lr={o.final_lr} has to lie between 0 and "
            f"config.optimizer.peak_lr={o.peak_lr}"
        )
    warmup, decay = duration(o.warmup, e), duration(o.decay, e)
    if warmup + (decay if o.schedule == "wsd" else 0) > e.num_steps:
        raise UserError(
            f"config.optimizer.warmup={o.warmup!r} and decay={o.decay!r} are {warmup} and {decay} "
            f"steps: more than the {e.num_steps} of the run"
        )
    if not d.input and not d.mixture:
        raise UserError(
            "config.data.input is empty; name a corpus: toyworld, a file, a folder, ..."
        )
    for name, source in d.mixture.items():
        if not re.fullmatch(r"[\w-]+", name) or name == "held_out":
            raise UserError(
                f"config.data.mixture: {name!r} cannot be the name of a source: it names a folder, "
                "of letters, digits, '-' and '_', and held_out is the evaluation's"
            )
        if not source.input or not 0 < source.weight < math.inf:
            raise UserError(
                f"config.data.mixture.{name} needs an input and a finite weight above 0"
            )
        if not 0 <= source.max_passes < math.inf:
            raise UserError(
                f"config.data.mixture.{name}.max_passes is {source.max_passes}; it has to be at "
                "least 0, which is any number of passes"
            )
    profiled = profile_range(t.profile_steps)
    if profiled and profiled[1] > e.num_steps:
        raise UserError(
            f"config.train.profile_steps is {t.profile_steps!r}, but the run has {e.num_steps} "
            "steps"
        )


# What a number has to be; an infinite one never will do.
_BOUNDS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    (
        "at least 1",
        lambda x: x >= 1,
        "model.num_layers model.d_model model.num_heads model.num_kv_heads model.head_dim "
        "model.d_ff model.vocab_size model.rope_original_context model.mup_base_width "
        "model.loss_chunks data.sequence_length data.workers toyworld.documents train.tokens "
        "train.batch_size train.accumulate train.log_every train.max_skipped "
        "checkpoint.every_steps checkpoint.keep eval.max_sequences",
    ),
    (
        "at least 0",
        lambda x: x >= 0,
        "toyworld.held_out_documents toyworld.fresh_documents toyworld.zipf "
        "optimizer.weight_decay optimizer.clip_norm train.z_loss train.samples "
        "checkpoint.keep_every_steps eval.every_steps",
    ),
    (
        "above 0",
        lambda x: x > 0,
        "model.norm_eps model.rope_scaling model.rope_scaling_low model.rope_scaling_high "
        "optimizer.peak_lr optimizer.muon_lr optimizer.eps",
    ),
    ("above 1", lambda x: x > 1, "model.rope_theta train.spike_factor"),
    (
        "at least 0 and below 1",
        lambda x: 0 <= x < 1,
        "data.held_out toyworld.noise optimizer.beta1 optimizer.beta2 optimizer.muon_beta",
    ),
    ("from 0 to 1", lambda x: 0 <= x <= 1, "toyworld.ambiguous"),
    (
        "at least 40, so that every relation has a choice",
        lambda x: x >= 40,
        "toyworld.concepts",
    ),
)


def profile_range(text: str) -> tuple[int, int] | None:
    """First and last step of "100-110"."""
    if not text:
        return None
    try:
        first, last = (int(part) for part in text.split("-"))
    except ValueError as error:
        raise UserError(f"config.train.profile_steps is {text!r}; write it as '100-110'") from error
    if not 1 <= first <= last:
        raise UserError(
            f"config.train.profile_steps is {text!r}; steps count from 1, the first comes first"
        )
    return first, last


def _build(cls: type, values: Mapping[str, Any], path: str) -> Any:
    """A dataclass of a nested mapping, strict about names and types."""
    hints = get_type_hints(cls)
    unknown = [k for k in values if k not in hints]
    if unknown:
        raise UserError(unknown_field(unknown[0], path, list(hints)))
    built = {}
    for name, value in values.items():
        kind, where = hints[name], f"{path}.{name}"
        if dataclasses.is_dataclass(kind):
            built[name] = _build(kind, value, where)  # type: ignore[arg-type]
        elif name == "mixture":
            built[name] = {k: _build(Source, v, f"{where}.{k}") for k, v in value.items()}
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            built[name] = float(value)
        elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UserError(f"{where} is {value!r}; it has to be {kind.__name__}")
        else:
            built[name] = value
    return cls(**built)
