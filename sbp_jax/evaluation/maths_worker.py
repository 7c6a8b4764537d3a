"""The process that asks sympy whether two answers are equal: a line with both in, "1" or "0" out.

Sympy may hang, or eat all memory, on what a model writes. The kernel ends this process when a
comparison takes too long, whatever code is running then, and its memory has a limit; who asked sees
the pipe close. It imports nothing of ours, so it starts quickly.
"""

import contextlib
import json
import logging
import os
import resource
import signal
import sys

MEMORY = 2 << 30


def main(timeout_s: float) -> None:
    from math_verify import parse, verify

    def expression(answer: str) -> list:
        # In a box all of it counts; else a formula would be looked for in it.
        return parse(f"\\boxed{{{answer}}}", parsing_timeout=None)

    logging.disable()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints
    with contextlib.suppress(ValueError, OSError):  # not every system has it
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started it
    expression("\\frac{1}{2}")  # what is slow at the first time
    answers.write(b"r")
    for line in sys.stdin:
        right, given = json.loads(line)
        # The processor's time, so that a busy machine makes no difference.
        signal.setitimer(signal.ITIMER_PROF, timeout_s)
        try:
            equal = verify(expression(right), expression(given), timeout_seconds=None)
        except (Exception, RecursionError):
            equal = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(b"1" if equal else b"0")


if __name__ == "__main__":
    main(float(sys.argv[1]))
