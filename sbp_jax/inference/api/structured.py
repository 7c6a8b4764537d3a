"""JSON out of what a model wrote, held to a schema.

Mended is what changes no content: text and code fences around the value, commas before a closing
bracket, one closing bracket too few. The last is mended only when the model came to an end by
itself: closing a text that was cut at its limit would make half an answer look like a whole one.
"""

import functools
import json
from collections.abc import Iterator
from typing import Any

from sbp_jax.errors import UserError

_CLOSING = {"{": "}", "[": "]"}


def conform(text: str, schema: str, whole: bool) -> str:
    """The part of `text` that follows the schema, mended; `ValueError` says why there is none.
    `whole` says that the model ended it, not its limit.
    """
    validator = schema_validator(schema)
    reason = ""
    for candidate in _candidates(text, whole):
        try:
            wrong = _complaint(validator, _parse(candidate))
        except (ValueError, RecursionError) as error:
            wrong = f"not JSON: {error}"
        if not wrong:
            return candidate
        reason = wrong
    if not whole:
        reason = f"cut off at max_tokens; {reason}"
    raise ValueError(reason)


@functools.lru_cache(maxsize=16)
def schema_validator(schema: str) -> Any:
    """`UserError` when it is no schema."""
    try:
        import jsonschema
        import referencing
    except ImportError as error:
        raise UserError('a schema needs jsonschema: pip install "sbp-jax[api]"') from error
    try:
        value = json.loads(schema)
        kind = jsonschema.validators.validator_for(value)
        kind.check_schema(value)
    except (ValueError, TypeError, jsonschema.SchemaError) as error:
        reason = getattr(error, "message", None) or error
        raise UserError(f"the schema is not a JSON schema: {reason}") from error
    return kind(value, registry=referencing.Registry())  # which fetches nothing from anywhere


def _candidates(text: str, whole: bool) -> Iterator[str]:
    """The text itself, then each outermost value of brackets in it."""
    yield text.strip()
    end = 0
    while starts := [i for i in (text.find("{", end), text.find("[", end)) if i >= 0]:
        value, end = _bracketed(text, min(starts), whole)
        yield value


def _bracketed(text: str, start: int, whole: bool) -> tuple[str, int]:
    """The mended value that begins here, and where it ends. One that does not end reaches to the
    end of the text.
    """
    kept: list[str] = []
    missing: list[str] = []  # brackets that have to come
    in_string = False
    comma = -1  # place in `kept` of one that nothing but space has followed
    i = start
    while i < len(text):
        c = text[i]
        kept.append(c)
        if in_string:
            if c == "\\":
                i += 1
                kept.append(text[i : i + 1])
            in_string = c != '"'
        elif c in _CLOSING.values():
            if not missing or missing.pop() != c:
                break
            if comma >= 0:
                kept[comma] = ""
            comma = -1
            if not missing:
                return "".join(kept), i + 1
        elif c == ",":
            comma = len(kept) - 1
        elif not c.isspace():
            comma = -1
            in_string = c == '"'
            if c in _CLOSING:
                missing.append(_CLOSING[c])
        i += 1
    if whole and i >= len(text) and len(missing) == 1 and not in_string:
        if comma >= 0:
            kept[comma] = ""
        kept += missing
    return "".join(kept), len(text)


def _parse(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def _complaint(validator: Any, value: Any) -> str:
    from jsonschema.exceptions import best_match

    error = best_match(validator.iter_errors(value))
    return "" if error is None else f"{error.json_path}: {error.message[:300]}"
