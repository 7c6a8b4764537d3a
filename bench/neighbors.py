"""Nearest neighbours of every vector on CPU: ours against faiss' exact index, side by side.

    python bench/neighbors.py [--full] [--rows=20000] [--dimensions=1024] [--k=10] [--repeats=3]

Vectors are drawn around centres, as documents lie around topics. Both sides have all cores and take
turns; the figures are medians. Then the ids are compared: a difference is a tie by float32's last
bits, or the bench ends. `--full` is 100,000 rows: about ten minutes on two cores.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from sbp_jax.pairing.neighbors import nearest_neighbors

TIE = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="100,000 rows, once")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.full:
        arguments.rows, arguments.repeats = 100_000, 1
    jax.config.update("jax_platforms", "cpu")
    vectors = clustered(arguments.rows, arguments.dimensions)
    nearest_neighbors(vectors[:4096], arguments.k)  # which compiles
    ours, theirs = [], []
    for _ in range(arguments.repeats):
        seconds, (scores, ids) = timed(nearest_neighbors, vectors, arguments.k)
        ours.append(seconds)
        seconds, (their_scores, their_ids) = timed(faiss_neighbors, vectors, arguments.k)
        theirs.append(seconds)
    a, b = statistics.median(ours), statistics.median(theirs)
    flops = 2 * arguments.rows**2 * arguments.dimensions
    shape = f"{arguments.rows:,} x {arguments.dimensions:,}, k={arguments.k}"
    print(f"{shape}: ours {a:.2f} s, faiss {b:.2f} s, faiss / ours {b / a:.2f}")
    print(f"of all {flops:.3g} FLOP in a second: ours {flops / a:.3g}, faiss {flops / b:.3g}")
    off = np.abs(scores - their_scores).max()
    same = (ids == their_ids).mean()
    recall = (
        np.mean([len(set(x) & set(y)) for x, y in zip(ids, their_ids, strict=True)]) / arguments.k
    )
    print(f"same ids {same:.6f}, recall {recall:.6f}, largest difference of scores {off:.2g}")
    if off > TIE:
        raise SystemExit("the neighbours differ")


def clustered(rows: int, dimensions: int) -> np.ndarray:
    random = np.random.default_rng(0)
    centres = random.standard_normal((max(rows // 20, 1), dimensions), np.float32)
    vectors = centres[random.integers(len(centres), size=rows)]
    vectors += 1.5 * random.standard_normal((rows, dimensions), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def faiss_neighbors(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Without each vector itself."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    scores, ids = index.search(vectors, k + 1)
    others = ids != np.arange(len(vectors))[:, None]
    others[others.all(axis=1), k] = False
    return scores[others].reshape(-1, k), ids[others].reshape(-1, k)


def timed(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
