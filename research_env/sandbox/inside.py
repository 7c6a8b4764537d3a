"""Process 1 of what a candidate sees: sets its limits, starts it, waits for it, tells how it ended.

Nothing that the candidate sends reaches it: the kernel keeps a namespace's first process from
signals of its own namespace. When it ends, the kernel kills whatever else is there.
`python inside.py SPECIFICATION STATUS`: two file descriptors. It starts before each program, so it
imports only what is built in: `signal` and `json` would double its time.
"""

import _signal as signal  # type: ignore[import-not-found]
import marshal
import os
import resource
import sys

Specification = dict  # command, environment, limits, folder, filter


def start(specification: Specification) -> int:
    """The candidate, in a process of its own."""
    if pid := os.fork():
        return pid
    # Python ignores some for itself, and who started the harness (nohup) may have ignored others.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    command = specification["command"]
    try:
        os.chdir(specification["folder"])
        os.setpgid(0, 0)
        os.execvpe(command[0], command, specification["environment"])
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode(errors="replace"))
        os._exit(126 if isinstance(error, PermissionError) else 127)
    finally:
        os._exit(126)


def limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))


def refuse_calls(program: bytes) -> None:
    """Those of seccomp.py, where bubblewrap is not there to do it."""
    import ctypes  # here, for it takes as long as all else

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_filter, filter_mode = 38, 22, 2
    libc.prctl(no_new_privileges, 1, 0, 0, 0)
    if libc.prctl(set_filter, filter_mode, ctypes.byref(Program(len(program) // 8, program))):
        raise OSError(ctypes.get_errno(), "seccomp")


def main() -> None:
    source, status = map(int, sys.argv[1:])
    with open(source, "rb") as file:
        specification = marshal.load(file)
    os.set_inheritable(status, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit(specification["limits"])
    if specification["filter"]:
        refuse_calls(specification["filter"])
    os.write(status, b"started\n")
    candidate = start(specification)
    os.closerange(1, 3)  # its copies of the candidate's streams
    while True:
        pid, ended = os.wait()
        if pid == candidate:
            os.write(status, b"%d\n" % os.waitstatus_to_exitcode(ended))
            os._exit(0)


if __name__ == "__main__":
    main()
