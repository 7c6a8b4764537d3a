"""The language models that `config` names, as the researcher of a search."""

from dataclasses import replace

from research_env.env import Environment
from research_env.researcher.asking import Manner, Model, Purse
from research_env.researcher.language import Language
from research_env.researcher.wording import wording
from sbp_jax.config import Experiment
from sbp_jax.errors import UserError
from sbp_jax.inference.budget_forcing import STYLES, Forcing
from sbp_jax.inference.engine import EngineOpener


def names(kind: str, experiment: Experiment, checkpoint: str | None) -> tuple[str, ...]:
    """Of the models, the first of which answers a wish that names none."""
    if kind != "api":
        if experiment.research.models:
            raise UserError("config.research.models names models of a server: --engine=api")
        return (checkpoint or "",)
    given = experiment.research.models or experiment.api.model
    found = tuple(name.strip() for name in given.split(",") if name.strip())
    if not found:
        raise UserError("config.api.model is empty; give the name that the server knows it by")
    return tuple(dict.fromkeys(found))


def open_language(
    kind: str,
    experiment: Experiment,
    checkpoint: str | None,
    env: Environment,
    folder: str,
    seed: int = 0,
    max_tokens: int | None = None,
    max_cost: float | None = None,
) -> Language:
    """`kind` is api, vllm or jax. `folder` is for vLLM's copy of a checkpoint. The caps are those
    of the whole search, with what the bank's ideas have cost.
    """
    research, api = experiment.research, experiment.api
    if max_cost and not (kind == "api" and (api.input_price or api.output_price)):
        raise UserError(
            "--max_cost is no limit where nothing has a price: set config.api.input_price and "
            "config.api.output_price with --engine=api"
        )
    purse = Purse(max_tokens, max_cost or None)
    models = []
    for name in names(kind, experiment, checkpoint):
        own = replace(experiment, api=replace(api, model=name)) if kind == "api" else experiment
        opener = EngineOpener(kind, own, checkpoint, folder)
        opener.fingerprint()  # what is wrong with a checkpoint or an address shows now
        models.append(Model(opener, name, manner(experiment), purse))
    if kind != "api":
        research = replace(research, context_tokens=_context(experiment, checkpoint))
        if research.chat:
            _need_chat(checkpoint)
    return Language(env, models, wording(research.prompts), research, seed)


def manner(experiment: Experiment) -> Manner:
    research = experiment.research
    forcing = None
    if research.thinking_tokens:
        # An answer has many lines, so no line's end ends it.
        style = replace(STYLES[research.thinking_style], stop=())
        forcing = Forcing(research.thinking_tokens, research.waits, research.answer_tokens, style)
    return Manner(
        research.chat, research.temperature, research.top_p, research.answer_tokens, forcing
    )


def _context(experiment: Experiment, checkpoint: str | None) -> int:
    """Of an engine on this machine."""
    limit = experiment.engine.max_length
    if not limit:
        from sbp_jax.training.checkpoint import run_config

        assert checkpoint
        limit = run_config(checkpoint).data.sequence_length
    return min(limit, experiment.research.context_tokens)


def _need_chat(checkpoint: str | None) -> None:
    from sbp_jax.data.tokenizer import load_tokenizer
    from sbp_jax.training.checkpoint import tokenizer_path

    assert checkpoint
    try:
        load_tokenizer(tokenizer_path(checkpoint)).encode_chat([{"role": "user", "content": "a"}])
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}: --config.research.chat=False") from error
