"""Prompts: files of prompts/, known by the hash of all of them, so that a change shows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sbp_jax import files
from sbp_jax.errors import UserError

PROMPTS = Path(__file__).with_name("prompts")
PLACES = {  # that a file must have
    "ideate": ("context", "task", "count"),
    "fresh": (),
    "exploit": (),
    "explore": (),
    "again": ("reason",),
    "implement": ("context", "idea", "task"),
    "programme": (),
    "revise": ("reason",),
    "repair": ("reason",),
}


@dataclass(frozen=True)
class Wording:
    texts: Mapping[str, str]

    def fill(self, name: str, **values: str) -> str:
        """All places in one go: what is put into one may itself hold "{count}"."""
        assert set(values) == set(PLACES[name]), (name, values)
        places = "|".join(PLACES[name]) or "(?!)"
        return re.sub(rf"\{{({places})\}}", lambda found: values[found[1]], self.texts[name])

    @property
    def hash(self) -> str:
        return files.sha256("\0".join(self.texts[name] for name in PLACES).encode())[:16]


def wording(folder: str = "") -> Wording:
    """Ours, or those of `folder` where it has a file of that name."""
    if folder and not Path(folder).is_dir():
        raise UserError(f"--prompts: {folder!r} is no folder")
    return Wording({name: _read(name, folder) for name in PLACES})


def _read(name: str, folder: str) -> str:
    own = Path(folder) / f"{name}.txt"
    path = own if folder and own.exists() else PROMPTS / f"{name}.txt"
    try:
        text = path.read_text().strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid UTF-8") from error
    for place in PLACES[name]:
        if f"{{{place}}}" not in text:
            raise UserError(f"{path}: no {{{place}}} in it, which belongs there")
    return text
