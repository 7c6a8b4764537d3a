"""What an experiment's fields may be, alone and together: refused before any work."""

import math
import operator
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from sbp_jax.errors import UserError

if TYPE_CHECKING:
    from sbp_jax.config import Experiment

# What a number has to be; an infinite one never will do.
_BOUNDS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    (
        "at least 1",
        lambda x: x >= 1,
        "model.num_layers model.d_model model.num_heads model.num_kv_heads model.head_dim "
        "model.d_ff model.vocab_size model.rope_original_context model.mup_base_width "
        "model.loss_chunks data.sequence_length data.workers toyworld.documents train.tokens "
        "train.batch_size train.accumulate train.log_every train.max_skipped "
        "checkpoint.every_steps checkpoint.keep eval.max_sequences pairing.dimensions "
        "pairing.max_tokens pairing.neighbors pairing.shingle synthesis.per_document "
        "synthesis.max_tokens engine.batch_size engine.tensor api.concurrency tuning.tokens "
        "tuning.batch_size tuning.every_steps quality.samples quality.duplicates "
        "quality.calibration quality.answer_tokens entigraph.window entigraph.entity_tokens "
        "entigraph.samples entigraph.max_tokens entigraph.judged study.passages "
        "study.passage_characters study.pretraining_tokens study.texts seeds rounds research.ideas "
        "research.samples research.context_tokens research.answer_tokens grpo.steps grpo.prompts "
        "grpo.batch_size grpo.passes grpo.max_tokens grpo.every_steps grpo.evaluated",
    ),
    (
        "at least 0",
        lambda x: x >= 0,
        "toyworld.held_out_documents toyworld.fresh_documents toyworld.zipf "
        "optimizer.weight_decay optimizer.clip_norm train.z_loss train.samples "
        "checkpoint.keep_every_steps eval.every_steps pairing.pairs pairing.min_characters "
        "pairing.max_characters pairing.max_per_document synthesis.temperature synthesis.top_k "
        "engine.max_length api.requests_per_minute api.tokens_per_minute api.retries "
        "api.input_price api.output_price tuning.weight_decay tuning.final_lr "
        "entigraph.max_triples entigraph.tokens_per_document entigraph.temperature "
        "research.retries research.revisions research.temperature research.thinking_tokens "
        "research.waits grpo.kept_texts grpo.ddof grpo.epsilon grpo.kl grpo.weight_decay",
    ),
    (
        "above 0",
        lambda x: x > 0,
        "model.norm_eps model.rope_scaling model.rope_scaling_low model.rope_scaling_high "
        "optimizer.peak_lr optimizer.muon_lr optimizer.eps api.timeout_s tuning.peak_lr "
        "study.passes study.pretraining_lr grpo.temperature grpo.clip grpo.peak_lr",
    ),
    ("above 1", lambda x: x > 1, "model.rope_theta train.spike_factor"),
    ("at least 2", lambda x: x >= 2, "entigraph.max_entities grpo.group"),
    (
        "at least 0 and below 1",
        lambda x: 0 <= x < 1,
        "model.dropout tuning.dropout data.held_out toyworld.noise optimizer.beta1 optimizer.beta2 "
        "optimizer.muon_beta",
    ),
    (
        "from 0 to 1",
        lambda x: 0 <= x <= 1,
        "toyworld.ambiguous pairing.max_overlap synthesis.max_overlap synthesis.max_similarity "
        "quality.repetition quality.similarity quality.max_overlap research.max_similarity",
    ),
    ("from -1 to 1", lambda x: -1 <= x <= 1, "pairing.min_score pairing.max_score"),
    (
        "above 0 and at most 1",
        lambda x: 0 < x <= 1,
        "synthesis.top_p engine.memory_fraction entigraph.top_p research.top_p",
    ),
    (
        "above 0 and below 1",
        lambda x: 0 < x < 1,
        "arms.synthetic_share study.replay study.niche",
    ),
    (
        "at least 40, so that every relation has a choice",
        lambda x: x >= 40,
        "toyworld.concepts",
    ),
)


def validate(e: "Experiment") -> None:
    """Refuses, before any work, what could only fail later."""
    m, d, o, t = e.model, e.data, e.optimizer, e.train
    for needs, holds, fields in _BOUNDS:
        for field in fields.split():
            value = operator.attrgetter(field)(e)
            if not (holds(value) and value < math.inf):
                raise UserError(f"config.{field} is {value}; it has to be {needs}")
    if not -(2**31) <= e.seed <= e.seed + e.seeds - 1 < 2**31:
        raise UserError(
            f"config.seed is {e.seed}; it, and the config.seeds={e.seeds} that begin with it, have "
            "to lie within -2**31 and 2**31 - 1, for JAX ignores the bits above"
        )
    for field, value, allowed in (
        ("model.parametrization", m.parametrization, ("standard", "mup_simple")),
        ("model.dtype", m.dtype, ("auto", "float32", "bfloat16")),
        ("model.attention", m.attention, ("auto", "xla", "splash", "cudnn", "triton")),
        ("model.remat", m.remat, ("none", "full", "qkv", "attention", "minimal")),
        ("mesh.platform", e.mesh.platform, ("", "cpu", "gpu", "tpu")),
        ("data.on_error", d.on_error, ("stop", "skip")),
        ("data.tokenizer_kind", d.tokenizer_kind, ("bpe", "unigram")),
        ("pairing.embedder", e.pairing.embedder, ("lexical", "self", "qwen3")),
        ("pairing.engine", e.pairing.engine, ("jax", "vllm")),
        ("pairing.orders", e.pairing.orders, ("neighbors", "both", "one")),
        ("api.protocol", e.api.protocol, ("openai", "anthropic")),
        ("research.thinking_style", e.research.thinking_style, ("plain", "think", "s1")),
        ("grpo.advantage", e.grpo.advantage, ("std", "mean")),
        ("grpo.loss", e.grpo.loss, ("clip", "ratio", "reinforce")),
        ("grpo.length", e.grpo.length, ("tokens", "texts", "constant")),
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
    p = e.pairing
    if p.min_score > p.max_score:
        raise UserError(
            f"config.pairing.min_score={p.min_score} is above "
            f"config.pairing.max_score={p.max_score}: no pair can be both"
        )
    if p.max_characters and p.min_characters > p.max_characters:
        raise UserError(
            f"config.pairing.min_characters={p.min_characters} is above "
            f"config.pairing.max_characters={p.max_characters}: no document can be both"
        )
    if p.engine == "vllm" and p.embedder != "qwen3":
        raise UserError(
            f"config.pairing.engine=vllm computes config.pairing.embedder=qwen3, not {p.embedder}"
        )
    if (p.embedder == "qwen3") != bool(p.model):
        raise UserError(
            f"config.pairing.embedder={p.embedder} with config.pairing.model={p.model!r}: qwen3 "
            "needs a model's folder, and no other embedder has a use for one"
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


def duration(text: str, experiment: "Experiment") -> int:
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
