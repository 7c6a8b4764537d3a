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

Specification = dict  # command, environment, limits, folder


def start(specification: Specification) -> int:
    """The candidate, in a process of its own."""
    if pid := os.fork():
        return pid
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # Python changed them for itself
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


def main() -> None:
    source, status = map(int, sys.argv[1:])
    with open(source, "rb") as file:
        specification = marshal.load(file)
    os.set_inheritable(status, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit(specification["limits"])
    os.write(status, b"started\n")
    candidate = start(specification)
    os.close(1), os.close(2)
    while True:
        pid, ended = os.wait()
        if pid == candidate:
            os.write(status, b"%d\n" % os.waitstatus_to_exitcode(ended))
            os._exit(0)


if __name__ == "__main__":
    main()
