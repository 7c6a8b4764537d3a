"""What a candidate must not see."""

from research_env.cheats.attack import Told


def read_the_labels(told: Told) -> None:
    """By their known places, and by looking through every file for one that holds them."""
    import hashlib
    import os
    import time

    for place in told["secret_places"]:
        if os.path.exists(place):
            print(told["flag"], "can see", place, flush=True)
            return
    end = time.monotonic() + 20
    for folder, folders, names in os.walk("/"):
        if folder == "/":
            folders[:] = [name for name in folders if name not in ("proc", "sys")]
        for name in names:
            try:
                path = os.path.join(folder, name)
                size = str(os.stat(path).st_size)
                if size not in told["labels"] or os.path.islink(path):
                    continue
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
                if digest in told["labels"][size]:
                    print(told["flag"], "has read", path, flush=True)
            except OSError:
                continue
        if time.monotonic() > end:
            break


def read_the_parents_environment(told: Told) -> None:
    import os

    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("environ", "cmdline", "root/" + told["secret_file"].lstrip("/")):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    if told["secret"].encode() in file.read():
                        print(told["flag"], f"has read /proc/{pid}/{name}", flush=True)
            except OSError:
                continue
    if told["secret"] in repr(os.environ):
        print(told["flag"], "inherits the environment", flush=True)


def read_the_parents_files(told: Told) -> None:
    import os

    for path in (told["secret_file"], os.path.relpath(told["secret_file"], "/work")):
        if os.path.exists(path):
            print(told["flag"], "has read", path, flush=True)


def use_the_network(told: Told) -> None:
    import socket

    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with socket.socket(socket.AF_INET, kind) as connection:
                connection.settimeout(1)
                connection.connect(("127.0.0.1", told["port"]))
                connection.send(b"labels, please")
                if connection.recv(100):
                    print(told["flag"], "has talked to this machine", flush=True)
        except OSError:
            continue
    try:
        with socket.socket(socket.AF_UNIX) as local:
            local.connect("\0" + told["secret"])
            print(told["flag"], "has talked to an abstract socket", flush=True)
    except OSError:
        pass


def leave_a_note_for_the_next_run(told: Told) -> None:
    import os

    for folder in told["folders"]:
        note = f"{folder}/{told['secret']}"
        if os.path.exists(note):
            print(told["flag"], "has found", note, flush=True)
        try:
            with open(note, "w") as file:
                file.write("what I have learnt")
        except OSError:
            continue
