"""Where a candidate must end, and what it must not use up."""

from research_env.cheats.attack import Told


def kill_the_timer(told: Told) -> None:
    import os
    import signal
    import time

    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    watching = {1, os.getppid()}
    if os.getpid() < 100:  # in a namespace of its own: all that there are
        watching |= {int(pid) for pid in os.listdir("/proc") if pid.isdigit()}
    for pid in watching - {os.getpid(), told["harness"] if os.getpid() >= 100 else 0}:
        try:
            if pid != 1 or os.getpid() < 100:
                os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
    time.sleep(600)


def outlive_the_limit(told: Told) -> None:
    import os
    import signal
    import time

    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    end = time.monotonic() + 120
    while time.monotonic() < end:
        time.sleep(0.01)


def fork_a_daemon(told: Told) -> None:
    """One that nobody waits for; whether it is still there is seen from outside."""
    import os
    import sys

    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in range(3):
                os.dup2(nothing, descriptor)
            os.execv(sys.executable, [sys.executable, "-c", told["sleeper"], told["secret"]])
        os._exit(0)


def fork_bomb(told: Told) -> None:
    import os
    import time

    made = 0
    most = 2 * told["limits"]["processes"] + 100
    while made < most:
        try:
            if os.fork() == 0:
                time.sleep(5)
                os._exit(0)
            made += 1
        except OSError:
            break
    if made == most:
        print(told["flag"], "has started", made, "processes", flush=True)
    raise SystemExit(1)


def exhaust_the_memory(told: Told) -> None:
    """By several processes, each of which has little."""
    import os
    import time

    most = told["limits"]["memory_mb"] + 256
    children = []
    for _ in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            held = [b"x" * (8 << 20) for _ in range(most // 4 // 8)]
            time.sleep(2)
            os._exit(7 if held else 1)
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if ended == [7] * 4:
        print(told["flag"], "has held", most, "MB", flush=True)
    raise SystemExit(1)


def fill_the_disk(told: Told) -> None:
    import os

    written = 0
    most = told["limits"]["disk_mb"] + 64
    chunk = os.urandom(1 << 20)
    for folder in told["folders"]:
        for number in range(1000):
            try:
                with open(f"{folder}/{told['secret']}-{number}", "wb") as file:
                    for _ in range(16):
                        file.write(chunk)
                        file.flush()
                        written += 1
            except OSError:
                break
            if written > most:
                print(told["flag"], "has written", written, "MB", flush=True)
                raise SystemExit(1)
    raise SystemExit(1)


def flood_the_output(told: Told) -> None:
    import os

    for _ in range(64):
        os.write(1, b"x" * (1 << 20))
    os.write(1, f'\n{{"score": {told["best"]!r}}}\n'.encode())
