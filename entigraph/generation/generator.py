"""Who writes: an engine, with what has to be known of it before it is opened."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from entigraph.generation.extractive import Extractive
from sbp_jax.config import Experiment
from sbp_jax.data.tokenizer import Tokenizer, load_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import Engine, EngineOpener

BYTES = 3  # that a token has at least, where nobody says; English has four


@dataclass(frozen=True)
class Generator:
    name: str  # for records
    fingerprint: str
    open: Callable[[], Engine]
    layout: str  # of its prompts: chat | text | json
    count: Callable[[str], int]  # tokens of a text, rather too many
    context: int = 0  # tokens that a prompt and its text may have; 0 is not known
    limit: int = 0  # config.engine.max_length, where it ends texts
    schema: bool = False  # whether it holds its answers to one
    priced: bool = False

    def room(self, new_tokens: int, overhead: int, most: int) -> int:
        """Tokens of a document that a prompt may show."""
        if not self.context:
            return most
        room = self.context - new_tokens - overhead
        if room < 1:
            raise UserError(
                f"{self.name}: answers of {new_tokens} tokens and prompts of {overhead} leave no "
                f"room for a document in a context of {self.context}; lower config.entigraph."
                "max_tokens and entity_tokens, or raise config.engine.max_length"
            )
        return min(room, most)


def generator(kind: str, experiment: Experiment, checkpoint: str | None, folder: Path) -> Generator:
    """`jax` and `vllm` run a checkpoint, `api` asks a server, `none` is no language model."""
    e = experiment
    if kind == "none":
        return extractive(load_tokenizer(e.data.tokenizer) if e.data.tokenizer else None)
    layout = "chat" if e.entigraph.chat else "text"
    opener = EngineOpener(kind, e, checkpoint, str(folder / "model"))
    fingerprint = opener.fingerprint()
    if kind == "api":
        return Generator(
            e.api.model, fingerprint, opener, layout, estimated, e.engine.max_length,
            schema=True, priced=bool(e.api.input_price or e.api.output_price),
        )  # fmt: skip
    from sbp_jax.training.checkpoint import run_config, tokenizer_path

    assert checkpoint
    tokenizer = load_tokenizer(tokenizer_path(checkpoint))
    limit = e.engine.max_length
    context = limit or run_config(checkpoint).data.sequence_length
    return Generator(
        fingerprint[:16], fingerprint, opener, layout, counter(tokenizer), context, limit,
        schema=kind == "vllm",
    )  # fmt: skip


def extractive(tokenizer: Tokenizer | None = None) -> Generator:
    count = counter(tokenizer) if tokenizer else estimated
    engine = Extractive(count, tokenizer.fingerprint if tokenizer else "")
    return Generator("extractive", engine.fingerprint, lambda: engine, "json", count)


def counter(tokenizer: Tokenizer) -> Callable[[str], int]:
    return lambda text: len(tokenizer.encode([text])[0])


def estimated(text: str) -> int:
    return -(-len(text.encode("utf-8", "replace")) // BYTES)
