"""What tells whether an array is the one that was saved: each word of its bits, times an odd number
that depends on its place, summed modulo 2^32. A sum of integers is the same on any mesh, in any
order, and on the host.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PIECE_WORDS = 1 << 22


def checksums(tree: Any) -> dict[str, int]:
    """Of each array, by its path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    sums = jax.device_get(_checksums([leaf for _, leaf in leaves]))
    return {
        jax.tree_util.keystr(path): int(value)
        for (path, _), value in zip(leaves, sums, strict=True)
    }


def host_checksum(x: np.ndarray, first: int = 0) -> int:
    """The same on the host, of a part whose first word has that place; parts add up."""
    words = x.reshape(-1).view(np.uint32)
    total = 0
    for start in range(0, words.size, PIECE_WORDS):
        piece = words[start : start + PIECE_WORDS]
        places = np.arange(first + start, first + start + piece.size, dtype=np.uint64)
        total += int(np.sum(piece * (2 * places + 1).astype(np.uint32), dtype=np.uint32))
    return total % 2**32


@jax.jit
def _checksums(leaves: list[jax.Array]) -> list[jax.Array]:
    def checksum(x: jax.Array) -> jax.Array:
        words = jax.lax.bitcast_convert_type(
            x, {4: jnp.uint32, 2: jnp.uint16}[x.dtype.itemsize]
        ).astype(jnp.uint32)
        place = jnp.zeros(x.shape, jnp.uint32)
        for axis, size in enumerate(x.shape):
            place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)

    return [checksum(x) for x in leaves]
