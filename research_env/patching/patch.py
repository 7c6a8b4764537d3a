"""A proposed change, applied to a tree as a whole or not at all.

Of the ways to make a change fit, the surest that works is taken, file by file: as written (counts
of hunks aside), three-way if the tree that it was written for is known, then within narrow bounds.
"""

import difflib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from research_env import tree as trees
from research_env.patching.diff_text import Change, Unreadable, changes
from research_env.patching.hunks import Misfit, apply_hunks
from research_env.patching.merge import merge

MOST_BYTES = 4 << 20  # of a diff, and of a file that it makes


class Applied(NamedTuple):
    paths: tuple[str, ...]  # what it touched
    inexact: tuple[str, ...] = ()  # those of them that fitted three-way or within bounds only


class PatchFailed(NamedTuple):
    reason: str  # with what to do about it, for whoever repairs it
    refused: bool = False  # for where it reaches, not for how it is written


class _Failed(Exception):
    def __init__(self, reason: str, refused: bool = False):
        self.result = PatchFailed(reason, refused)


class _File(NamedTuple):
    text: str
    executable: bool


def apply(
    tree: Path, diff: str, editable: Sequence[str], base: Path | None = None
) -> Applied | PatchFailed:
    """`base` is the tree that the diff was written for, if it is another one."""
    if not diff.strip():
        return Applied(())
    state: dict[str, _File | None] = {}  # what will be; None: deleted
    inexact: list[str] = []
    try:
        if len(diff.encode(errors="replace")) > MOST_BYTES:
            raise _Failed(f"a diff of more than {MOST_BYTES >> 20} MB")
        own = [path for path in trees.listed(tree) if trees.matches(path, editable)]
        for change in changes(diff, own[0] if len(own) == 1 else None):
            _change(change, tree, editable, base, state, inexact)
        _refuse_clashes(tree, state)
    except Unreadable as error:
        return PatchFailed(str(error))
    except _Failed as failed:
        return failed.result
    for path, file in state.items():
        if file is None:
            (tree / path).unlink(missing_ok=True)
    for path, file in state.items():
        if file is not None:
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(file.text.encode())
            (tree / path).chmod(0o755 if file.executable else 0o644)
    return Applied(tuple(state), tuple(inexact))


def _change(
    change: Change,
    tree: Path,
    editable: Sequence[str],
    base: Path | None,
    state: dict[str, _File | None],
    inexact: list[str],
) -> None:
    if change.mode and change.mode not in ("100644", "100755"):
        raise _Failed(f"{change.target}: mode {change.mode}; only plain files may be made", True)
    source = _checked(change.source, tree, editable)
    target = _checked(change.target, tree, editable)
    name = target or source
    assert name
    before = _read(source or name, tree, state)
    if change.content is not None:
        state[name] = _File(change.content, before.executable if before else False)
        return
    makes = source is None or (change.in_blocks and before is None and not change.hunks[0].old)
    if makes and before is not None and before.text:
        raise _Failed(f"{name}: is to be made, but is there already; change it instead")
    if before is None and not makes:
        there = ", ".join(p for p in trees.listed(tree) if trees.matches(p, editable))
        raise _Failed(f"{source}: no such file; there are {there}")
    if target != source and target and source and _read(target, tree, state) is not None:
        raise _Failed(f"{target}: is there already; {source} cannot take its place")
    old = before.text if before else ""
    executable = before.executable if before else False
    new, exact = _patched(name, old, change, base / source if base and source else None)
    if not exact:
        inexact.append(name)
    if target is None:
        if new and change.hunks:
            raise _Failed(f"{name}: is to be deleted, but the diff leaves lines of it")
        state[name] = None
        return
    if source and source != target and not change.keeps_source:
        state[source] = None
    state[target] = _File(new, change.mode == "100755" if change.mode else executable)
    if len(new) > MOST_BYTES:
        raise _Failed(f"{name}: more than {MOST_BYTES >> 20} MB")


def _patched(name: str, text: str, change: Change, base: Path | None) -> tuple[str, bool]:
    """The new text, and whether every old line was as the diff shows it."""
    lines = _lines(text)
    try:
        return "".join(apply_hunks(lines, change.hunks, fuzzy=False)), True
    except Misfit as misfit:
        reason = misfit
    if base is not None and base.is_file() and not base.is_symlink():
        written_for = _lines(base.read_bytes().decode(errors="replace"))
        try:
            theirs = apply_hunks(written_for, change.hunks, fuzzy=False)
        except Misfit:
            pass
        else:
            merged = merge(written_for, lines, theirs)
            if merged is None:
                raise _Failed(f"{name}: it changes lines that have been changed meanwhile")
            return "".join(merged), False
    try:
        return "".join(apply_hunks(lines, change.hunks, fuzzy=True)), False
    except Misfit as misfit:
        # "More than once" of the exact search says more than "not there" of the next.
        reason = reason if "more than once" in str(reason) else misfit
        raise _Failed(f"{name}: {reason}") from None


def _checked(path: str | None, tree: Path, editable: Sequence[str]) -> str | None:
    """The path, inside the tree and open to change."""
    if path is None:
        return None
    clean = os.path.normpath(path)
    if os.path.isabs(path) or ".." in path.split("/") or clean in (".", ""):
        raise _Failed(f"{path!r}: leads out of the code", True)
    if not path.isprintable() or "\\" in path:
        raise _Failed(f"{path!r}: a name with odd characters", True)
    if not trees.matches(clean, editable):
        raise _Failed(f"{clean}: only {', '.join(editable)} may be changed", True)
    here = tree
    for part in clean.split("/"):
        here = here / part
        if here.is_symlink():
            raise _Failed(f"{clean}: goes through a link", True)
    return clean


def _read(path: str, tree: Path, state: dict[str, _File | None]) -> _File | None:
    if path in state:
        return state[path]
    try:
        status = os.lstat(tree / path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(status.st_mode):
        raise _Failed(f"{path}: is no file")
    try:
        text = (tree / path).read_bytes().decode()
    except UnicodeDecodeError:
        raise _Failed(f"{path}: is not text in UTF-8; only text can be changed") from None
    return _File(text, bool(status.st_mode & stat.S_IXUSR))


def _refuse_clashes(tree: Path, state: dict[str, _File | None]) -> None:
    """A file where a folder is, or below a file."""
    files = {path for path, file in state.items() if file is not None}
    there = {path for path in trees.listed(tree) if state.get(path, "there") is not None} | files
    folders = {str(folder) for path in there for folder in Path(path).parents}
    for path in sorted(files):
        above = {str(folder) for folder in Path(path).parents}
        if path in folders or (tree / path).is_dir() or above & there:
            raise _Failed(f"{path}: a file and a folder of one name")


def _lines(text: str) -> list[str]:
    """With their ends; only a line feed ends a line, whatever Unicode thinks."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def make_diff(old_tree: Path, new_tree: Path) -> str:
    """A git diff that `apply` turns the one into the other with; text files only."""
    old, new = (trees.stamps(root) for root in (old_tree, new_tree))
    parts = []
    for path in sorted({*old, *new}):
        before, after = old.get(path), new.get(path)
        if before == after:
            continue
        a, b = _quoted(f"a/{path}"), _quoted(f"b/{path}")
        parts.append(f"diff --git {a} {b}\n")
        if after is None:
            parts.append(f"deleted file mode {_mode(before)}\n")
        elif before is None:
            parts.append(f"new file mode {_mode(after)}\n")
        elif before.executable != after.executable:
            parts.append(f"old mode {_mode(before)}\nnew mode {_mode(after)}\n")
        end = "\t" if " " in path else ""  # as git does, lest the name end there
        for line in difflib.unified_diff(
            _lines(_text(old_tree / path)) if before else [],
            _lines(_text(new_tree / path)) if after else [],
            a + end if before else "/dev/null",
            b + end if after else "/dev/null",
        ):
            parts.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(parts)


def _mode(stamp: trees.Stamp | None) -> str:
    return "100755" if stamp and stamp.executable else "100644"


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not text in UTF-8") from None


def _quoted(path: str) -> str:
    if path.isprintable() and not set(path) & {'"', "\\"}:
        return path
    return '"' + "".join(_escaped(character) for character in path) + '"'


def _escaped(character: str) -> str:
    if " " <= character <= "~" and character not in '"\\':
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode())
