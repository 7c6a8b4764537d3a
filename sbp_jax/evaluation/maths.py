"""Answers to maths problems: found in a text, and compared with the right one.

    with Judge() as judge:
        right = judge.equal([(r"\\frac12", extract(text)), ...])

A pair is equal when it is the same after the spelling is made plain, or the same number, or the
same expression to sympy (by `math-verify`, in processes of their own: see maths_worker.py).

What counts as spelling, as in MATH's own scoring: units, degrees, "$" and "%" are no part of a
number, so 20% is 20 and not 0.2; 1,000 is one number; 14 6/7 is a sum. Numbers are equal exactly:
0.5 is 1/2, 0.333 is not 1/3. Words are equal letter by letter, for sympy would take them for
products.
"""

import contextlib
import importlib.util
import json
import os
import queue
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

from sbp_jax.errors import UserError

LONGEST = 400  # characters of an answer that anybody looks into
TIMEOUT_S = 5.0  # of a processor's time for a comparison

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_SAID = re.compile(r"answer(?:\s+is\s*:?|\s*:)", re.IGNORECASE)
_NUMBER = re.compile(r"(?:(?<![\w)}])-)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_FRACTION = re.compile(r"(-?)(\d*)\\frac\{(-?[\d.]+)\}\{([\d.]+)\}")


def extract(text: str) -> str | None:
    """The last answer that a text marks as one: in a box, behind "####" or "answer is" or
    "answer:"; else its last number.
    """
    for start in reversed([found.end() for found in _BOX.finditer(text)]):
        inside = _until_closed(text, start)
        if inside and inside.strip():
            return inside.strip()
    if "####" in text:
        marked = text.rpartition("####")[2].strip().split("\n")[0].strip()
        if marked:
            return marked
    for start in reversed([found.end() for found in _SAID.finditer(text)]):
        # The first sentence, of which "3.5" is a part and a full stop is not.
        line = text[start:].strip().partition("\n")[0]
        if sentence := re.split(r"[.!](?:\s|$)", line)[0].strip(" *:"):
            return sentence
    numbers = _NUMBER.findall(text)
    return numbers[-1].rstrip(",") if numbers else None


def plain(answer: str) -> str:
    """One spelling of the many that an answer has."""
    text = answer.strip().strip("$").rstrip(".").strip()
    text = re.sub(r"\\(?:left|right|displaystyle|[!,;: ])|~|\{,\}", _comma_or_nothing, text)
    text = re.sub(r"\\[()\[\]]", "", text)  # around a formula
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\(?:degree|circ)|\\?[%$]|°", "", text)
    text = re.sub(r"(?<=[\d}])\s*\\(?:text|mbox|textnormal|mathrm|textrm)\s*\{[^{}]*\}$", "", text)
    text = re.sub(r"\\(?:text|mbox|textnormal|mathrm|textrm|textbf)\s*\{([^{}]*)\}", r"\1", text)
    # \frac12, \frac{1}2 and 1/2
    part = r"\s*(\{[^{}]*\}|\d)"
    text = re.sub(rf"\\frac{part}{part}", _fraction, text)
    text = re.sub(r"(?<![\w}.)/^])(-?)(\d+)\s*/\s*(\d+)(?![\w{.(/^])", r"\1\\frac{\2}{\3}", text)
    text = re.sub(r"^(-?[\d.,]*\d)\s+[a-zA-Z][a-zA-Z .]*$", r"\1", text.strip())  # 180 miles
    text = re.sub(r"^[a-zA-Z]\s*=\s*(?=[^=<>]+$)", "", text)  # x = 5
    text = re.sub(r"^\(([A-Za-z])\)$", r"\1", text)  # a choice
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    if _is_words(text):
        return " ".join(text.lower().split())
    return re.sub(r"\s+", "", text)


class Judge:
    """Compares many pairs at a time. A process begins when a pair needs it, and stays."""

    def __init__(self, processes: int | None = None, timeout_s: float = TIMEOUT_S):
        if not importlib.util.find_spec("math_verify"):
            raise UserError('comparing answers needs math-verify: pip install "sbp-jax[eval]"')
        count = processes or min(os.cpu_count() or 1, 8)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="judge")
        self._workers = [_Worker(timeout_s) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.end()

    def equal(self, pairs: Sequence[tuple[str, str | None]]) -> list[bool]:
        """Whether the second of each pair answers what the first, the right one, does. A comparison
        that takes too long, or brings its process down, says no.
        """
        known: dict[tuple[str, str], bool | None] = {}
        keys = [(plain(right[: 2 * LONGEST]), plain((given or "")[: 2 * LONGEST]))
                for right, given in pairs]  # fmt: skip
        for key in keys:
            known.setdefault(key, _by_spelling(*key))
        hard = [key for key, verdict in known.items() if verdict is None]
        known.update(zip(hard, self._threads.map(self._ask, hard), strict=True))
        return [bool(known[key]) for key in keys]

    def _ask(self, pair: tuple[str, str]) -> bool:
        worker = self._idle.get()
        try:
            return worker.equal(*pair)
        finally:
            self._idle.put(worker)


def _by_spelling(right: str, given: str) -> bool | None:
    """None where sympy has to be asked."""
    if not right or not given:
        return False
    if right == given:
        return True
    if max(len(right), len(given)) > LONGEST or _is_words(right) or _is_words(given):
        return False
    if {right[:1], given[:1]} == {"(", "\\"} and "\\{" in (right[:2], given[:2]):
        return False  # a pair and a set, which math-verify takes for the same
    numbers = _number(right), _number(given)
    return None if None in numbers else numbers[0] == numbers[1]


def _number(text: str) -> Fraction | None:
    """Of a plain number, fraction or mixed number."""
    with contextlib.suppress(ValueError, ZeroDivisionError):
        if found := _FRACTION.fullmatch(text):
            sign, whole, above, below = found.groups()
            value = int(whole or 0) + Fraction(above) / Fraction(below)
            return -value if sign else value
        if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", text):
            return Fraction(text)
    return None


def _is_words(text: str) -> bool:
    """Rather than a formula: "dog" is no product, "ab" and "sqrt(2)" are none of ours to say."""
    return bool(re.fullmatch(r"[a-zA-Z ,.'-]*", text) and re.search(r"[a-zA-Z]{3}", text))


def _until_closed(text: str, start: int) -> str | None:
    depth = 1
    for i in range(start, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if not depth:
            return text[start:i]
    return None


def _comma_or_nothing(found: re.Match[str]) -> str:
    return {"{,}": ",", "~": " ", "\\ ": " "}.get(found[0], "")


def _fraction(found: re.Match[str]) -> str:
    return "\\frac" + "".join(f"{{{part.strip('{}').strip()}}}" for part in found.groups())


class _Worker:
    """A process of maths_worker.py, started when it is needed and again when it has died."""

    def __init__(self, timeout_s: float):
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def equal(self, right: str, given: str) -> bool:
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([right, given]).encode() + b"\n")
            self._process.stdin.flush()
        said = self._process.stdout.read(1)
        if not said:
            self.end()
        return said == b"1"

    def _start(self) -> subprocess.Popen[bytes]:
        # Not by multiprocessing: that would import the program that we are part of, JAX and all.
        program = str(Path(__file__).with_name("maths_worker.py"))
        process = subprocess.Popen(
            # -P: else the modules beside it could be taken for others' of the same names.
            [sys.executable, "-P", program, str(self._timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout
        if process.stdout.read(1) != b"r":
            raise RuntimeError("math-verify does not start: python -c 'import math_verify'")
        return process

    def end(self) -> None:
        process, self._process = self._process, None
        if process:
            process.kill()
            process.communicate()
