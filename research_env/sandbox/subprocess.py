"""A mere process, for a candidate whom one trusts: watched and limited, but not confined.

Its files are in a temporary folder: what other sandboxes have at `/work` and `/data` is at
`$SANDBOX_ROOT/work` and `$SANDBOX_ROOT/data`, and the latter as links, which nothing protects.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from research_env.sandbox import seccomp
from research_env.sandbox.held import MODULES, SOURCES, Held, Plan, base_python
from research_env.sandbox.paths import check_paths, environment
from research_env.sandbox.protocol import Resource


class Subprocess(Held):
    def __init__(self, resource: Resource, read_only: Mapping[str, Path]) -> None:
        check_paths(read_only)
        self._resource, self._read_only = resource, read_only

    def __enter__(self) -> "Subprocess":
        self._folder = Path(tempfile.mkdtemp(prefix="sandbox-"))
        library = self._folder / "library"
        modules = library / "research_env" / "sandbox"
        for folder in (modules, self._folder / "work", self._folder / "tmp"):
            folder.mkdir(parents=True)
        for name in MODULES:
            (modules / name).symlink_to(SOURCES / name)
        for path, source in self._read_only.items():
            place = self._folder / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(source.resolve())
        given = dict(environment(os.path.join(sys.prefix, "bin"), self._resource.gpus))
        given |= {"SANDBOX_ROOT": str(self._folder)}
        given |= dict.fromkeys(("HOME", "TMPDIR"), str(self._folder / "tmp"))
        plan = Plan(
            outer=(),
            python=base_python(),
            library=str(library),
            before=(),
            inside=[base_python(), "-I", "-S", "-B", str(modules / "inside.py")],
            work=str(self._folder / "work"),
            own=False,
            filter=seccomp.program(),
            environment=tuple(given.items()),
            folder=str(self._folder / "work"),
        )
        super().__init__(plan, self._resource.cores)
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        shutil.rmtree(self._folder, ignore_errors=True)
