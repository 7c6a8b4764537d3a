"""A function of ours as a few lines at the head of a candidate's file."""

import ast
import inspect
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Told = Mapping[str, Any]

_RUN = """
import sys
if not hasattr(sys, "tried"):
    sys.tried = True
    print(told["tried"], flush=True)
    {name}(told)
"""


class Attack(NamedTuple):
    """Runs inside the candidate's process."""

    run: Callable[[Told], None]
    limits: Mapping[str, Any] = {}  # tighter than the environment's, to be done sooner
    twice: bool = False  # what the first leaves behind, the second may find
    must_fail: bool = False  # a run that ends well was not stopped, or not looked at
    least_seconds: float = 0.0  # what the harness's clock must show

    @property
    def name(self) -> str:
        return self.run.__name__.replace("_", " ")

    def source(self, told: Told) -> str:
        helper, function = inspect.getsource(at_the_end), inspect.getsource(self.run)
        start = f"from __future__ import annotations\ntold = {dict(told)!r}\n"
        return f"{start}{helper}\n{function}{_RUN.format(name=self.run.__name__)}"


def at_the_end(act: Callable[[], None]) -> None:
    """When the candidate's own work is done and written."""
    import atexit

    atexit.register(act)


def at_the_start(path: str, text: str, source: str) -> str | None:
    """The file with `source` before its own program; None if it is not one."""
    if path.endswith(".py"):
        try:
            body = ast.parse(text).body
        except SyntaxError:
            return None
        above = 0  # the lines of a docstring and of __future__ must stay the first
        for statement in body:
            future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
            words = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if not (future or (words and statement is body[0])):
                break
            above = statement.end_lineno or 0
        lines = text.splitlines(keepends=True)
        line = f'exec({source!r}, {{"__name__": "candidate"}})\n'
        return "".join([*lines[:above], line, *lines[above:]])
    if path.endswith(".sh"):
        first, _, rest = text.partition("\n") if text.startswith("#!") else ("", "", text)
        line = f"python -c {shlex.quote(source)}"
        line = f"trap {shlex.quote(line)} EXIT\n{line}"  # the shell's end is not Python's
        return "\n".join([first, line, rest] if first else [line, rest])
    return None


def sleeper() -> str:
    """Of the daemon, which ends by itself should nobody find it."""
    return "import time; time.sleep(60)"
