"""Reads the text of a compiled TPU program: what it sends between chips, and how long it may take.

The compiler prints a loop's body once and leaves its number of turns to the loop's condition, so
every figure is multiplied by the turns of the loops around it. What it calls reduce-scatter at one
place is an all-reduce inside of a fusion that keeps a slice at another.
"""

import math
import re
from typing import NamedTuple

KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"


class Program(NamedTuple):
    collectives: dict[str, dict[str, int]]  # by kind: count, and a device's bytes, in a step
    cycles: int | None  # the compiler's estimate, without collectives and Pallas kernels


class UnreadableProgram(Exception):
    """The compiler writes its programs in a way that this module does not know."""


def read_program(text: str, turns_of_others: int | None = None) -> Program:
    """`turns_of_others` are those of the loops whose number of turns is an argument of the program;
    without it there may be none.
    """
    computations = _computations(text)
    if "ENTRY" not in computations or not text.rstrip().endswith("}"):
        raise UnreadableProgram("the compiler's text is cut short; is the temporary disk full?")
    turns = _turns(computations, turns_of_others)
    collectives: dict[str, dict[str, int]] = {}
    seen: set[str] = set()
    cycles = 0
    for name, lines in computations.items():
        for line in lines:
            estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
            cycles += turns[name] * int(estimate[1]) if estimate else 0
            found = re.search(rf" = (\(?.*?\)?) ({KINDS})(-start)?\(", line)
            # One that runs beside several fusions stands in each of them, under one number.
            channel = re.search(r"channel_id=(\d+)", line)
            if not found or (channel and channel[1] in seen):
                continue
            if channel:
                seen.add(channel[1])
            result, kind, started = found.groups()
            shapes = re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", result)
            if started and kind in ("all-gather", "collective-permute"):
                shapes = shapes[1:2]  # of (operand, result, context...)
            if kind == "all-reduce" and any(" = " in x and " dynamic-slice(" in x for x in lines):
                # A fusion of both holds little else; in a loop's body the slice is another thing.
                kind = "reduce-scatter" if len(lines) < 20 else kind
            entry = collectives.setdefault(kind, {"count": 0, "bytes": 0})
            entry["count"] += turns[name]
            entry["bytes"] += turns[name] * sum(
                math.prod(int(size) for size in dims.split(",") if size) * int(bits) // 8
                for bits, dims in shapes
            )
    return Program(collectives, cycles or None)


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation by its name; the entry's comes under ENTRY."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if header:
            lines = found.setdefault("ENTRY" if header[1] else header[2], [])
        elif found and line.startswith(" "):
            lines.append(line)
    return found


def _turns(computations: dict[str, list[str]], of_others: int | None) -> dict[str, int]:
    """How often each computation runs in a step."""
    turns = dict.fromkeys(computations, 0)

    def visit(name: str, times: int) -> None:
        turns[name] += times
        for line in computations[name]:
            loop = re.search(r"condition=%?([\w.\-]+)", line)
            trips = _trips(computations[loop[1]], of_others) if loop else 1
            called = re.findall(r"(?:calls|to_apply|body)=%?([\w.\-]+)", line)
            for branches in re.findall(r"branch_computations=\{(.*?)\}", line):
                called += re.findall(r"[\w.\-]+", branches)  # the optimizer, or nothing
            for computation in called:
                visit(computation, times * trips)

    visit("ENTRY", 1)
    return turns


def _trips(condition: list[str], of_others: int | None) -> int:
    limits = [int(n) for line in condition for n in re.findall(r" constant\((\d+)\)", line)]
    if not limits and of_others:
        return of_others
    if len(limits) != 1:
        raise UnreadableProgram(f"the turns of a loop are no constant: {condition[-1].strip()}")
    return limits[0]
