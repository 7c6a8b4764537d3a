"""System calls that a candidate has no use for, as a filter for bubblewrap.

Two kinds: memory that no process's size shows and no file system limits, whose programs do without
it (`ENOSYS`: libffi and the C library then take another way); and doors of the kernel that have led
out of sandboxes before, or to more cores than were given (`EPERM`).
"""

import errno
import platform
import struct

# Numbers on x86-64 and ARM64.
_UNCOUNTED = {"memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194)}
_DOORS = {
    "sched_setaffinity": (203, 122),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "syslog": (103, 116),
    "msgget": (68, 186),
}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000  # a second numbering of the same calls
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000


def program() -> bytes:
    """Classic BPF; empty on a machine whose numbers are not here."""
    if platform.machine() not in _ARCHITECTURES:
        return b""
    column, architecture = _ARCHITECTURES[platform.machine()]
    lines = [
        _line(_LOAD, 4),  # the architecture
        _line(_EQUAL, architecture, 1, 0),
        _line(_RETURN, _ERROR | errno.ENOSYS),
        _line(_LOAD, 0),  # the call's number
        _line(_AT_LEAST, _X32, 0, 1),
        _line(_RETURN, _ERROR | errno.ENOSYS),
    ]
    for calls, error in ((_UNCOUNTED, errno.ENOSYS), (_DOORS, errno.EPERM)):
        for numbers in calls.values():
            lines += [_line(_EQUAL, numbers[column], 0, 1), _line(_RETURN, _ERROR | error)]
    return b"".join([*lines, _line(_RETURN, _ALLOW)])


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
