"""An environment's code as files in memory: changed by patches, and told as a diff from the start.

Whatever form a model writes its change in and whichever idea it starts from, what is kept is one
unified diff from the environment's own code. So equal changes are equal texts.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from research_env import tree
from research_env.env import Environment
from research_env.patching import patch

Files = Mapping[str, bytes]


class NotApplied(ValueError):
    """Says why, for the one who wrote it."""


class Codebase:
    def __init__(self, env: Environment):
        self._env = env
        self.original: Files = _read(env.code)

    def changed(self, start: Files, change: str) -> Files:
        """The files after a patch; `NotApplied` where it does not fit or may not be made."""
        with self._laid_out(start) as folder:
            done = patch.apply(folder, change, self._env.editable)
            if isinstance(done, patch.PatchFailed):
                raise NotApplied(done.reason)
            if wrong := tree.violation(self._env.code, folder, self._env.editable):
                raise NotApplied(wrong)
            return _read(folder)

    def diff(self, after: Files) -> str:
        """From the environment's own code."""
        with self._laid_out(after) as folder:
            return patch.make_diff(self._env.code, folder)

    @contextlib.contextmanager
    def _laid_out(self, files: Files) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="research-patch-") as place:
            folder = Path(place)
            for path, content in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
                own = self._env.code / path
                executable = own.exists() and bool(own.stat().st_mode & 0o100)
                (folder / path).chmod(0o755 if executable else 0o644)
            yield folder


def as_text(content: bytes) -> str | None:
    """None of what is no text."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _read(folder: Path) -> Files:
    return {path: (folder / path).read_bytes() for path in tree.listed(folder)}
