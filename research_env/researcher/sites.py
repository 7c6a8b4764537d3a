"""Places in Python source where a typed edit makes sense, found in its syntax tree.

A site is a literal: a number, a truth value, or a word that is one of a few known ones. Editing
literals never changes the tree's shape, so the sites of a file and of any edited version of it
correspond one to one, which is what makes two changes easy to combine.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

NUMBER, FLAG, SWITCH = "number", "flag", "switch"

# Words that programs for training tend to give a choice of; a program's own choices come first.
FAMILIES = (
    ("relu", "gelu", "silu", "swish", "tanh", "relu2", "squared_relu", "swiglu", "geglu"),
    ("sgd", "momentum", "adam", "adamw", "lion", "muon", "adafactor", "sophia"),
    ("constant", "cosine", "linear", "wsd", "exponential", "inverse_sqrt", "trapezoid"),
    ("layernorm", "rmsnorm", "none"),
    ("normal", "truncated_normal", "uniform", "orthogonal", "xavier", "zeros"),
    ("float32", "bfloat16"),
    ("post", "pre"),
)
# Functions that take the same arguments, as attributes of what they are looked up in.
FUNCTIONS = (
    ("nn", ("relu", "gelu", "silu", "tanh", "elu", "softplus", "mish")),
    ("F", ("relu", "gelu", "silu", "elu", "softplus", "mish")),
    ("optax", ("adam", "adamw", "nadam", "nadamw", "adamax", "adabelief", "radam")),
    ("optax", ("cosine_decay_schedule", "linear_onecycle_schedule")),
)
_NOT_OURS = re.compile(
    r"seed|random_state|version|port|vocab|verbose|log|print|path|file|name|dir|exist_ok|parents|"
    r"encoding|axis|axes|dims|ndim|shape|causal|static|donate|strict|flush|pickle"
)
Choices = Mapping[str, set[str]]


class Site(NamedTuple):
    path: str
    start: int  # in bytes of the file in UTF-8, as the syntax tree counts
    end: int
    kind: str
    text: str  # what stands there
    name: str  # of what it is a value of
    options: tuple[str, ...] = ()  # of a switch, without quotes


def find(path: str, source: str, choices: Choices | None = None) -> list[Site]:
    """In the order in which they stand; none if this is no Python. `choices` are the program's, by
    default those of this file.
    """
    tree = _parsed(source)
    if tree is None:
        return []
    if choices is None:
        choices = choices_of([source])
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, name in _named(tree, ""):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        if isinstance(node, ast.Attribute):
            start = end - len(node.attr.encode())  # of a.b.c, only the c
        text = source.encode()[start:end].decode()
        kind, options = _kind(node, name, choices)
        if kind:
            found.append(Site(path, start, end, kind, text, name, options))
    return sorted(found, key=lambda site: site.start)


def replaced(source: str, edits: Sequence[tuple[Site, str]]) -> str:
    raw = source.encode()
    for site, text in sorted(edits, key=lambda edit: -edit[0].start):
        raw = raw[: site.start] + text.encode() + raw[site.end :]
    return raw.decode()


def _named(node: ast.AST, name: str) -> Iterator[tuple[ast.expr, str]]:
    """Constants and attributes below, with the name of what they are for."""
    if isinstance(node, ast.Constant | ast.Attribute):
        yield node, name
        if isinstance(node, ast.Attribute):
            yield from _named(node.value, "")
        return
    if isinstance(node, ast.JoinedStr | ast.Subscript | ast.Compare | ast.AugAssign):
        return  # texts to print, positions, conditions and counters
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                # What a nameless argument means only its function knows.
                inherited = "" if isinstance(node, ast.Call) and field == "args" else name
                yield from _named(child, _name_of(node, field, child) or inherited)


def _name_of(node: ast.AST, field: str, child: ast.AST) -> str:
    if isinstance(node, ast.Assign) and field == "value":
        return ast.unparse(node.targets[0])
    if isinstance(node, ast.AnnAssign | ast.AugAssign) and field == "value":
        return ast.unparse(node.target)
    if isinstance(node, ast.keyword) and node.arg:
        return node.arg
    if isinstance(node, ast.arguments) and field in ("defaults", "kw_defaults"):
        if field == "kw_defaults":
            return node.kwonlyargs[node.kw_defaults.index(child)].arg  # type: ignore[arg-type]
        before = [*node.posonlyargs, *node.args]
        index = next(i for i, default in enumerate(node.defaults) if default is child)
        return before[index - len(node.defaults)].arg
    if isinstance(node, ast.Dict) and field == "values":
        index = next(i for i, value in enumerate(node.values) if value is child)
        key = node.keys[index]
        return str(key.value) if isinstance(key, ast.Constant) else ""
    return ""


def _kind(node: ast.expr, name: str, choices: Choices) -> tuple[str, tuple[str, ...]]:
    if isinstance(node, ast.Attribute):
        owner = node.value
        last = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
        for module, functions in FUNCTIONS:
            if last == module and node.attr in functions:
                return SWITCH, functions
        return "", ()
    assert isinstance(node, ast.Constant)
    value = node.value
    if not name or _NOT_OURS.search(name.lower()):
        return "", ()
    if isinstance(value, bool):
        return FLAG, ()
    if isinstance(value, int | float):
        return NUMBER, ()
    if isinstance(value, str):
        own = choices.get(name.split(".")[-1].lower(), set())
        if value in own and len(own) > 1:
            return SWITCH, tuple(sorted(own))
        for family in FAMILIES:
            if value in family:
                return SWITCH, family
    return "", ()


def _parsed(source: str) -> ast.AST | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None


def choices_of(sources: Iterable[str]) -> Choices:
    """The words that a program compares a name with, or looks it up among; files may share one."""
    found: dict[str, set[str]] = {}
    trees = [tree for tree in map(_parsed, sources) if tree is not None]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    tables = {
        _last(node.targets[0]): node.value
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    }
    for node in nodes:
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name | ast.Attribute):
            words = {
                constant.value
                for other in node.comparators
                for constant in ast.walk(other)
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
            }
            found.setdefault(_last(node.left), set()).update(words)
        elif isinstance(node, ast.Subscript):
            table = tables.get(_last(node.value), node.value)
            keys = {
                key.value
                for key in (table.keys if isinstance(table, ast.Dict) else ())
                if isinstance(key, ast.Constant) and isinstance(key.value, str)
            }
            found.setdefault(_last(node.slice), set()).update(keys)
    # What a name is now is one of its choices, if there are others.
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            known = found.get(_last(target))
            if known and isinstance(node.value.value, str):
                known.add(node.value.value)
    return found


def _last(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr.lower()
    return node.id.lower() if isinstance(node, ast.Name) else ""
