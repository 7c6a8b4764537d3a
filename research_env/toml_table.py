"""A TOML file read key by key, so that every mistake in it is told by file, key and remedy."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from sbp_jax.errors import UserError

_REQUIRED: Any = object()


class Table:
    """One table of the file. What was never asked for is refused by `done`, as a misspelt key."""

    def __init__(self, file: Path, values: Mapping[str, Any], name: str = ""):
        self.file, self.name = file, name
        self._values = dict(values)
        self._known: set[str] = set()

    def refuse(self, key: str, why: str) -> NoReturn:
        raise UserError(f"{self.file}: {self.path(key)}: {why}")

    def path(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def table(self, key: str, required: bool = False) -> "Table":
        value = self._take(key, _REQUIRED if required else {})
        if not isinstance(value, dict):
            self.refuse(key, f"must be a table, [{self.path(key)}], not {value!r}")
        return Table(self.file, value, self.path(key))

    def text(self, key: str, default: str = _REQUIRED) -> str:
        value = self._take(key, default)
        if not isinstance(value, str) or (default is _REQUIRED and not value.strip()):
            self.refuse(key, f"must be a text in quotes, not {value!r}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._take(key, _REQUIRED)
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            self.refuse(key, f'must be a list of texts, such as ["train.py"], not {value!r}')
        return tuple(value)

    def choice(self, key: str, among: Sequence[str]) -> str:
        value = self.text(key)
        if value not in among:
            self.refuse(key, f"must be {' or '.join(map(repr, among))}, not {value!r}")
        return value

    def whole(self, key: str, default: int, least: int = 0) -> int:
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.refuse(key, f"must be a whole number, {least} or more, not {value!r}")
        return value

    def number(self, key: str, default: float = _REQUIRED, least: float = -math.inf) -> float:
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            bound = "" if least == -math.inf else f", {least:g} or more"
            self.refuse(key, f"must be a number{bound}, not {value!r}")
        return float(value)

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        value = self._take(key, _REQUIRED)
        right = isinstance(value, list) and len(value) == count
        if not right or any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
            self.refuse(key, f"must be a list of {count} numbers, not {value!r}")
        return tuple(float(v) for v in value)

    def environment(self, key: str) -> dict[str, str]:
        """Environment variables: names to texts or numbers."""
        return self.table(key).variables()

    def variables(self, but: Sequence[str] = ()) -> dict[str, str]:
        found = {}
        for name in sorted(set(self._values) - set(but)):
            value = self._take(name, _REQUIRED)
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                self.refuse(name, f"must be a text or a number, not {value!r}")
            if not name.isidentifier() or "\0" in str(value):
                self.refuse(name, "is no environment variable")
            found[name] = str(value)
        return found

    def done(self) -> None:
        if unknown := sorted(set(self._values) - self._known):
            known = ", ".join(sorted(self._known))
            self.refuse(unknown[0], f"unknown key; known here: {known}")

    def _take(self, key: str, default: Any) -> Any:
        self._known.add(key)
        if key not in self._values and default is _REQUIRED:
            self.refuse(key, "is missing")
        return self._values.get(key, default)


def read(file: Path, overrides: str = "", choice: str = "") -> Table:
    """The file's table; with `overrides`, what its subtable `overrides.choice` says instead."""
    try:
        values = tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; an environment is a folder with one") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    choices = values.pop(overrides, {}) if overrides else {}
    if choices:
        if not isinstance(choices, dict) or not all(isinstance(v, dict) for v in choices.values()):
            raise UserError(f"{file}: {overrides}: must hold tables, [{overrides}.NAME]")
        if choice not in choices:
            raise UserError(f"{file}: {overrides}.{choice}: is missing; there are {list(choices)}")
        values = _merged(values, choices[choice])
    return Table(file, values)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merged(old, value) if both and old is not None else value
    return merged
