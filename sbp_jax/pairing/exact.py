"""What both searches end with: the score of a pair, and the order of a row's candidates."""

import numpy as np

CHUNK = 1 << 22  # numbers gathered at once


def best(
    vectors: np.ndarray, row: np.ndarray, id: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k best (row, id, score) of each row, of flat candidates without repeats; rows may have
    fewer.
    """
    score = scores(vectors, row, id)
    order = np.lexsort((id, -score, row))
    row, id, score = row[order], id[order], score[order]
    kept = ranks(row) < k
    return row[kept], id[kept], score[kept]


def scores(vectors: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products, in float64 and then rounded, so that no order of summation shows."""
    result = np.empty(len(a), np.float32)
    step = max(CHUNK // vectors.shape[1], 1)
    for start in range(0, len(a), step):
        some = slice(start, start + step)
        result[some] = np.einsum(
            "nd,nd->n", vectors[a[some]].astype(np.float64), vectors[b[some]].astype(np.float64)
        )
    return result


def ranks(row: np.ndarray) -> np.ndarray:
    """The place of each within its row, of rows that are sorted."""
    return np.arange(len(row)) - np.searchsorted(row, row)
