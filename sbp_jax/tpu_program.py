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
    collectives: dict[str, dict[str, float]]  # by kind: count, and bytes of the results, a step
    cycles: int | None  # the compiler's estimate, without collectives and Pallas kernels


def read_program(text: str) -> Program:
    computations = _computations(text)
    turns = _turns(computations)
    collectives: dict[str, dict[str, float]] = {}
    seen: set[str] = set()
    cycles = 0
    for name, lines in computations.items():
        scatters = any("dynamic-slice(" in line for line in lines) and len(lines) < 20
        for line in lines:
            estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
            cycles += turns[name] * int(estimate[1]) if estimate else 0
            found = re.search(rf" = (\(?.*?\)?) ({KINDS})(?:-start)?\(", line)
            # One that runs beside several fusions stands in each of them, under one number.
            channel = re.search(r"channel_id=(\d+)", line)
            if not found or (channel and channel[1] in seen):
                continue
            if channel:
                seen.add(channel[1])
            kind = "reduce-scatter" if found[2] == "all-reduce" and scatters else found[2]
            entry = collectives.setdefault(kind, {"count": 0, "bytes": 0})
            entry["count"] += turns[name]
            entry["bytes"] += turns[name] * sum(
                math.prod(int(size) for size in dims.split(",") if size) * int(bits) / 8
                for bits, dims in re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", found[1])
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


def _turns(computations: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation runs in a step."""
    turns = dict.fromkeys(computations, 0)

    def visit(name: str, times: int) -> None:
        turns[name] += times
        for line in computations[name]:
            for key, called in re.findall(r"(calls|to_apply|body)=%?([\w.\-]+)", line):
                loop = re.search(r"condition=%?([\w.\-]+)", line) if key == "body" else None
                visit(called, times * (_trips(computations[loop[1]]) if loop else 1))

    visit("ENTRY", 1)
    return turns


def _trips(condition: list[str]) -> int:
    limits = [int(n) for line in condition for n in re.findall(r" constant\((\d+)\)", line)]
    if len(limits) != 1:
        raise ValueError(f"a loop whose number of turns is not a constant: {condition[-1].strip()}")
    return limits[0]
