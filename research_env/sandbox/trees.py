"""Files in and out of a folder that a candidate has written: no name in it is trusted.

Every step opens one name below an open folder, never through a link; the candidate can make a link
of any part of a path, but it cannot move what is already open.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from research_env.sandbox.protocol import Unreadable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def parts_below_work(path: str) -> tuple[str, ...]:
    """Of `a/b` or `/work/a/b`."""
    parts = PurePosixPath(path).parts
    if parts[:1] == ("/",):
        if parts[1:2] != ("work",):
            raise ValueError(f"{path}: not below /work")
        parts = parts[2:]
    if ".." in parts or "\0" in path:
        raise ValueError(f"{path}: not below /work")
    return parts


@contextmanager
def _opened(folder: int, parts: tuple[str, ...], make: "Owner | None" = None) -> Iterator[int]:
    """The folder at `parts` below `folder`."""
    here = os.dup(folder)
    try:
        for part in parts:
            if make is not None:
                make.folder(part, here)
            below = _open(part, _FOLDER, here)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def _open(name: str, flags: int, folder: int) -> int:
    """Whatever permissions the candidate has left on it."""
    try:
        return os.open(name, flags, dir_fd=folder)
    except PermissionError:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        finally:
            os.close(handle)
        return os.open(name, flags, dir_fd=folder)


class Owner:
    """To whom files are given; None: they stay this process's own."""

    def __init__(self, user: int | None) -> None:
        self.user = user

    def folder(self, name: str, into: int) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=into)
            self.take(name, into)
        except FileExistsError:
            pass

    def take(self, name: str, into: int) -> None:
        if self.user is not None:
            os.chown(name, self.user, self.user, dir_fd=into, follow_symlinks=False)


def copy_in(source: Path, work: int, target: str, user: int | None = None) -> None:
    """What is at `target` gives way, but a folder, into which a folder is merged."""
    parts, owner = parts_below_work(target), Owner(user)
    if source.is_dir():
        with _opened(work, parts, owner) as folder:
            _copy_folder_in(source, folder, owner)
    elif not parts:
        raise ValueError(f"{target}: a file needs a name below /work")
    else:
        with _opened(work, parts[:-1], owner) as folder:
            _copy_file_in(source, folder, parts[-1], owner)


def _copy_folder_in(source: Path, folder: int, owner: Owner) -> None:
    for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
        if entry.is_symlink():
            _give_way(entry.name, folder)
            os.symlink(os.readlink(entry.path), entry.name, dir_fd=folder)
            owner.take(entry.name, folder)
        elif entry.is_dir():
            with _opened(folder, (entry.name,), owner) as below:
                _copy_folder_in(Path(entry.path), below, owner)
        else:
            _copy_file_in(Path(entry.path), folder, entry.name, owner)


def _copy_file_in(source: Path, folder: int, name: str, owner: Owner) -> None:
    with open(source, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{source}: neither a file nor a folder")
        _give_way(name, folder)
        with os.fdopen(os.open(name, _CREATE, 0o600, dir_fd=folder), "wb") as copy:
            _copy(file.fileno(), copy.fileno(), status.st_size)
            os.fchmod(copy.fileno(), stat.S_IMODE(status.st_mode) & 0o777 | 0o600)
    owner.take(name, folder)


def _give_way(name: str, folder: int) -> None:
    """Never written through: it may be a link, or another name of some other file."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def read_out(work: int, path: str, target: Path, most_bytes: int) -> tuple[str, ...]:
    try:
        parts = parts_below_work(path)
        with _opened(work, parts[:-1]) as folder:
            reader = _Reader(most_bytes)
            name = parts[-1] if parts else "."
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            target.parent.mkdir(parents=True, exist_ok=True)
            if stat.S_ISDIR(status.st_mode):
                with _opened(folder, (name,)) as below:
                    reader.folder(below, target, PurePosixPath())
            elif stat.S_ISREG(status.st_mode):
                reader.file(folder, name, target)
            else:
                raise Unreadable(f"{path}: neither a file nor a folder")
            return tuple(reader.left_out)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Unreadable(f"{path}: {reason}") from error


class _Reader:
    DEEPEST = 100  # folders; each is an open descriptor
    MOST = 100_000  # names

    def __init__(self, most_bytes: int) -> None:
        self.room, self.most, self.names = most_bytes, most_bytes, 0
        self.left_out: list[str] = []

    def folder(self, folder: int, target: Path, at: PurePosixPath) -> None:
        target.mkdir(exist_ok=True)
        depth = len(at.parts)
        if depth > self.DEEPEST:
            raise Unreadable(f"{at.parents[depth - 3]}: folders more than {self.DEEPEST} deep")
        for name in sorted(os.listdir(folder)):
            self.names += 1
            if self.names > self.MOST:
                raise Unreadable(f"more than {self.MOST:,} files")
            kind = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISDIR(kind):
                with _opened(folder, (name,)) as below:
                    self.folder(below, target / name, at / name)
            elif stat.S_ISREG(kind):
                self.file(folder, name, target / name)
            elif stat.S_ISLNK(kind) and stays_inside(os.readlink(name, dir_fd=folder), depth):
                (target / name).unlink(missing_ok=True)
                (target / name).symlink_to(os.readlink(name, dir_fd=folder))
            else:
                self.left_out.append(str(at / name))

    def file(self, folder: int, name: str, target: Path) -> None:
        descriptor = _open(name, _READ, folder)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable(f"{name}: no file any more")
            self.room -= status.st_size
            if self.room < 0:
                raise Unreadable(f"more than {self.most >> 20} MB")
            target.unlink(missing_ok=True)
            with open(target, "xb") as copy:
                _copy(descriptor, copy.fileno(), status.st_size)
                os.fchmod(copy.fileno(), 0o755 if status.st_mode & 0o100 else 0o644)
        finally:
            os.close(descriptor)


def stays_inside(link: str, depth: int) -> bool:
    """Of a link `depth` folders below the top. Where `..` comes first only, no other link on the
    way can lead it elsewhere.
    """
    parts = PurePosixPath(link).parts
    up = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    return parts[:1] != ("/",) and up <= depth and ".." not in parts[up:]


def _copy(source: int, target: int, size: int) -> None:
    """Not more than `size`, whatever is written meanwhile."""
    while size > 0 and (data := os.read(source, min(size, 1 << 20))):
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
        size -= len(data)
