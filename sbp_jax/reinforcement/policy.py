"""Group relative policy optimisation: the algorithm.

A text is worth its reward less the mean of its group, the texts for the same prompt. The policy is
moved towards texts that are better than their group, away from those that are worse; the ratio of
its probabilities to those that the texts were drawn with says how far it has moved already, and
beyond the clip there is nothing to gain.

The probabilities are of what was drawn: at the sampler's temperature, of the ids that it may draw.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sbp_jax import parallel
from sbp_jax.config import Experiment, GrpoConfig
from sbp_jax.model import loss, transformer
from sbp_jax.training.step import (
    TrainState,
    accumulated,
    state_shapes,
    state_shardings,
    updated,
)

STALE = 0.1  # nats a token, on average, by which the sampler's log-probabilities may be others


def advantages(rewards: np.ndarray, grpo: GrpoConfig) -> np.ndarray:
    """Of rewards [prompts, group]. A group of equal rewards has none, whatever the deviation."""
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    if grpo.advantage == "mean":
        return centred
    deviation = rewards.std(axis=1, ddof=grpo.ddof, keepdims=True)
    # Not by a deviation of 0: that of equal rewards need not be, for their mean is rounded.
    return np.where(flat(rewards), 0.0, centred / (deviation + grpo.epsilon + flat(rewards)))


def flat(rewards: np.ndarray) -> np.ndarray:
    """Which groups [prompts, 1] have one reward for all their texts."""
    return np.ptp(rewards, axis=1, keepdims=True) == 0


def token_weights(drawn: np.ndarray, grpo: GrpoConfig) -> np.ndarray:
    """What share of the loss each token of an update's texts [B, T] has."""
    if grpo.length == "tokens":
        return drawn / drawn.sum()
    if grpo.length == "texts":
        return drawn / drawn.sum(axis=1, keepdims=True) / len(drawn)
    return drawn / (grpo.max_tokens * len(drawn))


def log_probabilities(
    experiment: Experiment, vocab: int, params: transformer.Params, batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Of the targets [B, T]: as they are drawn, and in the model's own distribution."""
    bound = transformer.bind(experiment.model, params)
    hidden, _ = bound(batch["inputs"])
    return loss.log_probabilities(
        hidden,
        bound.output_matrix(),
        batch["targets"],
        chunks=experiment.model.loss_chunks,
        logit_scale=bound.logit_scale,
        temperature=experiment.grpo.temperature,
        vocab=vocab,
    )


def update(
    experiment: Experiment, vocab: int, state: TrainState, batch: dict[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of the optimizer, on rows of `rollouts.rows` with `weights`, `advantages`, `old` and
    `reference`, which only the divergence asks for.
    """
    grpo = experiment.grpo

    def objective(params, part):
        new, _ = log_probabilities(experiment, vocab, params, part)
        weights, advantage = part["weights"], part["advantages"]
        # Rows are padded, and what is not drawn weighs nothing: its ratio must not be infinite.
        ratio = jnp.exp(jnp.where(weights > 0, new - part["old"], 0.0))
        if grpo.loss == "reinforce":
            gain = new * advantage
        elif grpo.loss == "ratio":
            gain = ratio * advantage
        else:
            clipped = jnp.clip(ratio, 1 - grpo.clip, 1 + grpo.clip)
            gain = jnp.minimum(ratio * advantage, clipped * advantage)
        told = {
            "loss": -gain,
            "ratio": jnp.abs(ratio - 1),
            "clipped": (jnp.abs(ratio - 1) > grpo.clip).astype(jnp.float32),
        }
        if grpo.kl:
            ahead = jnp.where(weights > 0, part["reference"] - new, 0.0)
            told["kl"] = jnp.exp(ahead) - ahead - 1  # never negative, and right on average
            told["loss"] += grpo.kl * told["kl"]
        sums = jax.tree.map(lambda value: (weights * value).sum(), told)
        return sums["loss"], sums

    told, gradient = accumulated(experiment, objective, state.params, batch)
    state, metrics = updated(experiment, state, told["loss"], gradient)
    return state, {**told, **metrics}


def jitted_update(experiment: Experiment, mesh: Mesh, vocab: int) -> Any:
    out = state_shardings(experiment, mesh), NamedSharding(mesh, PartitionSpec())
    return jax.jit(partial(update, experiment, vocab), donate_argnums=0, out_shardings=out)


def trace_update(experiment: Experiment, mesh: Mesh) -> jax.stages.Traced:
    """Traced for a mesh whose devices need not be on this machine, with the longest rows."""
    grpo, length = experiment.grpo, experiment.data.sequence_length
    whole = jax.ShapeDtypeStruct((grpo.batch_size, length), jnp.int32)
    names = ["weights", "advantages", "old", *(["reference"] if grpo.kl else [])]
    shares = {name: jax.ShapeDtypeStruct(whole.shape, jnp.float32) for name in names}
    batch = {"inputs": whole, "targets": whole, **shares}
    placed = parallel.batch_sharding(mesh)

    def laid(shape: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    state = jax.tree.map(laid, state_shapes(experiment), state_shardings(experiment, mesh))
    rows = jax.tree.map(lambda shape: laid(shape, placed), batch)
    with jax.set_mesh(mesh):
        return jitted_update(experiment, mesh, experiment.model.vocab_size).trace(state, rows)


class Learner:
    """The algorithm compiled for a mesh, and a state that learns by it."""

    def __init__(self, experiment: Experiment, mesh: Mesh, vocab: int):
        self.experiment, self.mesh = experiment, mesh
        self._scores = jax.jit(
            partial(log_probabilities, experiment, vocab),
            out_shardings=NamedSharding(mesh, PartitionSpec()),
        )
        self._update = jitted_update(experiment, mesh, vocab)

    def learn(
        self,
        state: TrainState,
        rows: dict[str, np.ndarray],
        rewards: np.ndarray,
        orders: Sequence[np.ndarray],
        reference: transformer.Params | None = None,
    ) -> tuple[TrainState, dict[str, float]]:
        """A pass over the rows in each of the given orders; the means of what the updates told."""
        size = self.experiment.grpo.batch_size
        drawn = rows["drawn"]
        old, own = self._score(state.params, rows)
        apart = float((np.abs(own - rows["sampler"]) * drawn).sum() / drawn.sum())
        if not apart < STALE:
            raise RuntimeError(
                f"the sampler's log-probabilities are {apart:.3g} nats a token from the trainer's: "
                "it draws with other weights, or from another distribution"
            )
        each = advantages(rewards, self.experiment.grpo).reshape(-1, 1) * np.ones_like(drawn)
        rows = {**rows, "old": old, "advantages": each.astype(np.float32)}
        if reference is not None:
            rows["reference"], _ = self._score(reference, rows)
        told: list[dict[str, Any]] = []
        for order in orders:
            for start in range(0, len(order), size):
                batch = {name: value[order[start : start + size]] for name, value in rows.items()}
                batch["weights"] = token_weights(batch.pop("drawn"), self.experiment.grpo)
                del batch["sampler"]
                with jax.set_mesh(self.mesh):
                    state, metrics = self._update(state, self._placed(batch))
                told.append(jax.device_get(metrics))
        means = {name: float(np.mean([one[name] for one in told])) for name in told[0]}
        last = {name: told[-1][name].item() for name in ("lr", "skipped", "skipped_in_a_row")}
        return state, {**means, **last, "sampler_gap": apart}

    def _score(
        self, params: transformer.Params, rows: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        size, found = self.experiment.grpo.batch_size, []
        for start in range(0, len(rows["inputs"]), size):
            part = {name: rows[name][start : start + size] for name in ("inputs", "targets")}
            with jax.set_mesh(self.mesh):
                found.append(jax.device_get(self._scores(params, self._placed(part))))
        drawn, own = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return drawn, own

    def _placed(self, batch: dict[str, Any]) -> dict[str, jax.Array]:
        return jax.device_put(batch, parallel.batch_sharding(self.mesh))
