"""Prompts: files of entigraph/prompts, known by their hashes, so that a change shows.

Each begins with the document and ends with what is asked of it: the requests of one document share
a long beginning, which engines with a prefix cache compute once.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sbp_jax import files
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import Prompt

PROMPTS = Path(__file__).with_name("prompts")


@dataclass(frozen=True)
class Wording:
    """`chat`, `text`: a file with the document for {text}, as a message or as it is. `json`: the
    parts themselves, for generators that are no language models.
    """

    layout: str
    prompts: tuple[tuple[str, str], ...]  # name, file's text

    def prompt(self, name: str, heading: str, text: str, entities: Sequence[str] = ()) -> Prompt:
        if self.layout == "json":
            parts = {"ask": name, "heading": heading, "text": text, "entities": list(entities)}
            return json.dumps(parts)
        lines = "\n".join(f"- {entity}" for entity in entities)
        fields = {"heading": heading, "text": text.strip(), "entities": lines}
        asked = filled(self.file(name), fields)
        return ({"role": "user", "content": asked},) if self.layout == "chat" else asked

    def file(self, name: str) -> str:
        return dict(self.prompts)[name]

    def hash(self, name: str) -> str:
        return files.sha256(f"{self.layout}\n{self.file(name)}".encode())


def wording(layout: str, names: Sequence[str], folder: str = "") -> Wording:
    """The prompts of these names: of `folder`'s files where it has them, else ours."""
    if layout == "json":
        return Wording(layout, tuple((name, "") for name in names))
    if folder and not Path(folder).is_dir():
        raise UserError(f"config.entigraph.prompts: {folder!r} is no folder")
    return Wording(layout, tuple((name, _read(name, folder)) for name in names))


def filled(prompt: str, fields: Mapping[str, str]) -> str:
    """In one go: a document may itself hold {entities}."""
    return re.sub(
        "|".join(rf"\{{{field}\}}" for field in fields), lambda m: fields[m[0][1:-1]], prompt
    )


def _read(name: str, folder: str) -> str:
    own = Path(folder) / f"{name}.txt"
    path = own if folder and own.exists() else PROMPTS / f"{name}.txt"
    try:
        prompt = path.read_text()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid UTF-8") from error
    if "{text}" not in prompt:
        raise UserError(f"{path}: no {{text}} in it, for which the document is put")
    if name in ("pair", "triple") and "{entities}" not in prompt:
        raise UserError(f"{path}: no {{entities}} in it, for which their names are put")
    return prompt.strip()
