"""A mount in which root's files are another user's: what a root harness gives its candidates is
often its own alone (a temporary folder has mode 700), and they are nobody.

Linux 5.12 or newer, and most file systems. Part of the holder.
"""

import ctypes
import os
import struct

# The same numbers on all architectures.
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = 1, 4
MOUNT_ATTR_RDONLY, MOUNT_ATTR_IDMAP = 0x1, 0x100000
CLONE_NEWUSER = 0x10000000

libc = ctypes.CDLL(None, use_errno=True)


def give(path: str, user: int) -> None:
    """Mounts what is at `path` there once more, read-only, root's files as `user`'s."""
    mapping = _mapping(user)
    try:
        tree = _call(OPEN_TREE, AT_FDCWD, path.encode(), OPEN_TREE_CLONE | os.O_CLOEXEC)
        attributes = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_IDMAP, 0, 0, mapping)
        size = ctypes.c_size_t(len(attributes))
        _call(MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, attributes, size)
        _call(MOVE_MOUNT, tree, b"", AT_FDCWD, path.encode(), MOVE_MOUNT_F_EMPTY_PATH)
        os.close(tree)
    finally:
        os.close(mapping)


def _mapping(user: int) -> int:
    """A user namespace that has root as `user`, and all others as themselves."""
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        libc.unshare(CLONE_NEWUSER)
        os.write(tell, b".")
        os.kill(os.getpid(), 19)  # stays until it is killed
        os._exit(0)
    try:
        os.read(told, 1)
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write(f"0 {user} 1\n1 1 {user - 1}\n")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(told)
        os.close(tell)
        os.kill(child, 9)
        os.waitpid(child, 0)


def _call(number: int, *arguments: object) -> int:
    done = libc.syscall(number, *arguments)
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done
