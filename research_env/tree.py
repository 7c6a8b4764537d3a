"""What a candidate may not do to a tree of files, checked on the tree and not on the diff.

A diff can lie about what it does; the files that it left cannot. So the tree is compared with the
environment's own after the patch, and once more after the run.
"""

import functools
import hashlib
import os
import re
import shutil
import stat
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

# Python runs or obeys these by their mere presence, whatever the program is.
_RUNS_BY_ITSELF = ("sitecustomize.py", "usercustomize.py", "conftest.py", "pyvenv.cfg")
_LOADED_BY_ENDING = (".pth", ".pyc", ".pyo", ".so", ".pyd", ".egg-link", "._pth")
_CACHES = "__pycache__"


class Stamp(NamedTuple):
    sha256: str
    executable: bool


class _Seen(NamedTuple):
    size: int
    inode: int
    modified: int
    changed: int


def listed(root: Path) -> list[str]:
    """The regular files below, as sorted relative paths; Python's caches are nobody's work."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != _CACHES]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(found)


def irregular(root: Path) -> str | None:
    """The first entry that is neither a folder nor a plain file with one name, if there is one."""
    for path, entry in _entries(root):
        if entry.is_symlink():
            return path
        if entry.is_dir(follow_symlinks=False):
            continue
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return path
    return None


def hard_linked(root: Path) -> str | None:
    """A file that has a second name, here or elsewhere: writing the one changes the other."""
    for path, entry in _entries(root):
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            return path
    return None


def matches(path: str, globs: Iterable[str]) -> bool:
    """`*` is within a folder, `**` over folders, and a folder's name is all that it holds."""
    return any(_pattern(glob).fullmatch(path) for glob in globs)


def copy(source: Path, target: Path, but: Path | None = None) -> None:
    """Own copies of the regular files, without caches and without the source's permissions."""
    for path in listed(source):
        if but and (source / path).is_relative_to(but):
            continue
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, place)
        executable = os.access(source / path, os.X_OK)
        place.chmod(0o755 if executable else 0o644)
    target.mkdir(parents=True, exist_ok=True)


def stamps(root: Path, folders: Sequence[str] = (".",)) -> dict[str, Stamp]:
    """What every file holds. A file that the system says is untouched is not read again."""
    found = {}
    for folder in folders:
        for path in listed(root / folder):
            place = root / folder / path
            status = place.stat()
            seen = _Seen(status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
            executable = bool(status.st_mode & stat.S_IXUSR)
            found[os.path.normpath(f"{folder}/{path}")] = Stamp(
                _sha256(str(place), seen), executable
            )
    return found


def changed(before: Mapping[str, Stamp], after: Mapping[str, Stamp]) -> str | None:
    """The first path, in the order of names, that is not as it was."""
    for path in sorted({*before, *after}):
        if before.get(path) != after.get(path):
            return path
    return None


def violation(original: Path, tree: Path, editable: Sequence[str]) -> str | None:
    """Why a patched tree is not one that a candidate may have, if so."""
    if odd := irregular(tree):
        return f"{odd!r} is a link or no regular file"
    if linked := hard_linked(tree):
        return f"{linked!r} is a hard link"
    if cache := next((path for path, _ in _entries(tree) if _CACHES in path.split("/")), None):
        return f"{cache!r} would be loaded in place of a source file"
    before, after = stamps(original), stamps(tree)
    for path in sorted({*before, *after}):
        if before.get(path) == after.get(path):
            continue
        if not matches(path, editable):
            what = "deleted" if path not in after else "changed" if path in before else "added"
            return f"{path!r} was {what}; only {', '.join(editable)} may be"
        if path not in before and (why := _dangerous(path, before)):
            return f"{path!r} {why}"
        if path in before and before[path].executable != after.get(path, before[path]).executable:
            return f"{path!r} changed its mode"
    return None


def _dangerous(path: str, before: Mapping[str, Stamp]) -> str | None:
    """Of a new file."""
    *folders, name = path.split("/")
    if not path.isprintable() or "\\" in path:
        return "has a name with odd characters"
    if name.lower() in _RUNS_BY_ITSELF:
        return "would be run by Python itself"
    if name.lower().endswith(_LOADED_BY_ENDING):
        return "would be loaded in place of a source file"
    if folders and any(part.startswith(".") for part in folders) or name.startswith("."):
        return "is hidden"
    taken = {old.casefold(): old for old in before}
    if path.casefold() in taken:
        return f"differs from {taken[path.casefold()]!r} in case only"
    if name.endswith(".py"):
        module = folders[0] if folders else name.removesuffix(".py")
        own = any(old.split("/")[0] in (module, f"{module}.py") for old in before)
        if not own and _installed(module):
            return f"shadows the installed module {module!r}"
        # A package `model/` wins over `model.py`.
        for depth in range(1, len(folders) + 1):
            shadowed = "/".join(folders[:depth]) + ".py"
            if shadowed in before:
                return f"shadows {shadowed!r}"
        package = "/".join([*folders, name.removesuffix(".py"), "__init__.py"])
        if package in before:
            return f"shadows {package!r}"
    return None


@functools.cache
def _installed(module: str) -> bool:
    """The standard library's, or of the packages beside it."""
    places = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return module in sys.stdlib_module_names or bool(PathFinder.find_spec(module, places))


def _entries(root: Path, below: str = "") -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    with os.scandir(root / below) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        yield path, entry
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(root, path)


@functools.cache
def _pattern(glob: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", glob.rstrip("/"))
    into = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(into.get(part, re.escape(part)) for part in parts) + "(?:/.*)?")


@functools.lru_cache(maxsize=100_000)
def _sha256(path: str, seen: _Seen) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
