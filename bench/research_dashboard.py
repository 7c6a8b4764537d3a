"""How long after an idea's end a person sees it, and what a page costs the search that it shows.

    python bench/research_dashboard.py [--ideas=10000] [--repeats=20]

A bank of so many ideas, the dashboard as its own process, and a client that does what the page's
script does: it listens to /events and asks for /state. Here an idea ends at a random moment, again
and again; measured is the time from before the bank is written to when the idea's score has
arrived. A page with many ideas is refreshed more seldom, so that it takes at most a twentieth of
one core: that is most of the time with 10,000. Beside it the first load of the page, the processor
time of a change, and the report that is written at a search's end. Medians and the worst.
"""

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from research_env.bank import NAME, Bank
from research_env.dashboard import report
from research_env.outcome import Outcome, State
from research_env.researcher.interface import BASELINE, EXPLOIT, FRESH, Proposal

DIFF = "--- a/train.py\n+++ b/train.py\n@@ -1,40 +1,40 @@\n" + " rate = warm(step)\n" * 40


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ideas", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        with Bank(workdir / NAME, write=True) as bank:
            fill(bank, arguments.ideas)
            served(bank, workdir, arguments.repeats)
        begun = time.monotonic()
        size = report.write(workdir).stat().st_size
        print(f"report: {time.monotonic() - begun:.2f} s, {size / 1e6:.1f} MB")


def fill(bank: Bank, ideas: int) -> None:
    draw = random.Random(0)
    bank.set("noise", 0.01)
    bank.set("budget", {"ideas": 2 * ideas})
    with bank.at_once():
        bank.add(Proposal("baseline", "", "", kind=BASELINE))
        end(bank, 0, 0.5)
        for i in range(1, ideas + 1):
            fresh = i <= ideas // 4
            parents = () if fresh else (draw.randrange(1, i),)
            kind = FRESH if fresh else EXPLOIT
            title, diff = f"Change number {i} of the rate", f"{DIFF}+rate = {i}\n"
            bank.add(Proposal(title, title, diff, parents, kind, "mutator"), "evolution")
            end(bank, i, None if i % 5 == 0 else draw.gauss(0.5 + 0.1 * i / ideas, 0.02))


def end(bank: Bank, idea: int, score: float | None) -> None:
    run = bank.enqueue(idea, "search", 1)
    assert run is not None
    ok = score is not None
    state, why = (State.OK, "") if ok else (State.CRASHED, "ValueError: no")
    bank.finish(run, Outcome(state, score, 1.0, why))
    bank.conclude(idea)


def served(bank: Bank, workdir: Path, repeats: int) -> None:
    command = [sys.executable, "-m", "research_env.dashboard", str(workdir), "--port=0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = urlsplit(process.stderr.readline().strip()).port
        assert port is not None
        try:
            measure(bank, process.pid, port, repeats)
        finally:
            process.terminate()


def measure(bank: Bank, pid: int, port: int, repeats: int) -> None:
    begun = time.monotonic()
    size = len(asked(port, "/"))
    print(f"page of {bank.count():,} ideas: {time.monotonic() - begun:.2f} s, {size / 1e6:.1f} MB")
    known = json.loads(asked(port, "/state"))
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/events")
    events = connection.getresponse()
    draw, waits, cpu = random.Random(1), [], seconds_of(pid)
    for _ in range(repeats):
        time.sleep(draw.uniform(0.5, 2.0))
        begun = time.monotonic()
        number = bank.count() + 1
        with bank.at_once():
            bank.add(Proposal(f"Late idea {number}", "", f"{DIFF}+{number}\n"))
            end(bank, number, 0.4)
        seen = False
        while not seen:
            while not events.readline().startswith(b"data: "):
                pass
            path = f"/state?epoch={known['epoch']}&since={known['revision']}"
            known = json.loads(asked(port, path))
            seen = any(row[0] == number for row in known["rows"])
        waits.append(time.monotonic() - begun)
    each = (seconds_of(pid) - cpu) / repeats
    connection.close()
    median, worst = statistics.median(waits), max(waits)
    print(f"end to dashboard: median {median:.2f} s, worst {worst:.2f} s of {repeats}")
    print(f"processor time of the dashboard for each: {each:.3f} s")


def asked(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    body = answer.read()
    connection.close()
    return body


def seconds_of(pid: int) -> float:
    """Of processor time, on Linux; elsewhere not a number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
