"""Conversations as rows to train on, the loss on the answers alone: instruction tuning.

    python -m entigraph.instruct --config=configs/entigraph_8b.py:instruct \\
        --input=ultrachat.jsonl --output=data/ultrachat/store --tokenizer=Llama-3-8B
    python -m sbp_jax.train --config=configs/entigraph_8b.py:instruct \\
        --init_from=runs/entigraph_8b --workdir=runs/entigraph_8b_instruct

A row of the input has `messages`, a list of {"role", "content"}, and any text in `prompt`, or where
--config.data.text_field says. Each answer is an example, after all that was said before it. A model
without a chat template reads "User: ..." and "Assistant: ".
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from etils import epath

from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Corpus, open_corpus, read_documents
from sbp_jax.data.pack import write_pairs
from sbp_jax.data.tokenizer import NO_CHAT, Tokenizer, load_tokenizer
from sbp_jax.errors import UserError

# Others that import this module, or are imported by it, have flags of these names too.
INPUT = flags.DEFINE_string("input", None, "Conversations, as data.input.", allow_override=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder of the store.", allow_override=True)
TOKENIZER = flags.DEFINE_string("tokenizer", None, "The model's folder, as data.tokenizer.")
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
log = logging.getLogger(__name__)


def main() -> None:
    experiment, spec = cli.experiment(), INPUT.value or ""
    tokenizer = load_tokenizer(TOKENIZER.value or "")
    found = write_store(experiment, spec, tokenizer, epath.Path(OUTPUT.value or ""))
    log.info(
        "%s: %s answers, %s tokens of them; %s are longer than config.data.sequence_length=%d",
        OUTPUT.value, f"{found['examples']:,}", f"{found['target_tokens']:,}",
        f"{found['left_out']:,}", experiment.data.sequence_length,
    )  # fmt: skip


def write_store(
    experiment: Experiment, spec: str, tokenizer: Tokenizer, output: epath.Path
) -> dict[str, Any]:
    """The store's manifest."""
    corpus = open_corpus(spec, experiment)
    return write_pairs(
        examples(experiment, corpus, tokenizer),
        output,
        tokenizer=tokenizer,
        row_length=experiment.data.sequence_length + 1,
        name=f"{spec} (answers)",
        fingerprint=corpus.fingerprint,
    )


def examples(
    experiment: Experiment, corpus: Corpus, tokenizer: Tokenizer
) -> Iterator[tuple[list[int], list[int]]]:
    for document in read_documents(corpus, experiment.data.on_error):
        messages = _messages(document.id, document.meta)
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                answer = tokenizer.encode([message["content"].strip()])[0]
                yield before(messages[:number], tokenizer), [*answer, tokenizer.eos_id]


def before(messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> list[int]:
    """The ids of what was said, up to where the answer begins."""
    try:
        return list(tokenizer.encode_chat(messages))
    except UserError as error:
        if str(error) != NO_CHAT:
            raise
    said = "".join(f"{ROLES[m['role']]}: {m['content'].strip()}\n\n" for m in messages)
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return begin + tokenizer.encode([f"{said}Assistant: "])[0]


def _messages(id: str, meta: str) -> list[dict[str, str]]:
    messages = json.loads(meta).get("messages")
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str)
        for m in messages
    ):
        raise UserError(
            f"{id}: `messages` is no list of {{'role': one of {', '.join(ROLES)}, 'content': text}}"
        )
    return messages


if __name__ == "__main__":
    cli.run(main, needs=("config", "input", "output", "tokenizer"))
