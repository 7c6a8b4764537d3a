"""Accelerators by name: what `v5p:8x8x8` is, from any machine, without a driver or a compiler."""

import math
import re
from typing import NamedTuple

from sbp_jax.errors import UserError


class Chip(NamedTuple):
    device_kind: str  # JAX's, as flops.PEAK_FLOPS has it
    sizes: int  # of its torus; 1 counts devices
    per_host: int  # of a slice of several hosts
    bandwidth: float  # bytes a second of its memory, published


CHIPS = {
    "v4": Chip("TPU v4", 3, 4, 1.228e12),
    "v5p": Chip("TPU v5", 3, 4, 2.765e12),
    "tpu7x": Chip("TPU7x", 3, 4, 7.37e12),
    "v5e": Chip("TPU v5 lite", 2, 4, 0.819e12),
    "v6e": Chip("TPU v6 lite", 2, 4, 1.638e12),
    "a100": Chip("NVIDIA A100", 1, 8, 2.039e12),
    "h100": Chip("NVIDIA H100", 1, 8, 3.35e12),
    "h200": Chip("NVIDIA H200", 1, 8, 4.8e12),
    "b200": Chip("NVIDIA B200", 1, 8, 8e12),
}


class Topology(NamedTuple):
    name: str  # of the chip
    sizes: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        return CHIPS[self.name]

    @property
    def chips(self) -> int:
        return math.prod(self.sizes)

    @property
    def hosts(self) -> int:
        return math.ceil(self.chips / self.chip.per_host)


def parse(text: str, what: str = "--topology") -> Topology:
    name, _, torus = text.partition(":")
    sizes = re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", torus) and tuple(map(int, torus.split("x")))
    if name not in CHIPS or not sizes or len(sizes) != CHIPS[name].sizes:
        raise UserError(
            f"{what}={text}: write it as CHIP:TORUS: v4, v5p or tpu7x with three sizes, as in "
            "v5p:8x8x8; v5e or v6e with two, as in v6e:16x16; a100, h100, h200 or b200 with their "
            "number, as in h100:64"
        )
    return Topology(name, sizes)
