"""Vectors of documents without a model: hashed TF-IDF under a random projection.

A word counts more the fewer documents have it; one that all have counts nothing. It goes to a few
coordinates with signs, all taken from its hash, so that the inner product of two documents is that
of their weighted words, give or take 1/sqrt(dimensions). Nothing is learnt but how many documents
have each word, in buckets of its hash; sums are of float64 in the order of the words.
"""

from collections.abc import Sequence

import numpy as np

from sbp_jax.data.ngrams import batches, normal_form

BUCKETS = 1 << 18  # of words; rare words that share one are taken to be as frequent as both
SPREAD = 4  # coordinates of a word


def count(texts: Sequence[str]) -> np.ndarray:
    """How many of the documents have a word of each bucket."""
    counts = np.zeros(BUCKETS, np.int64)
    for _, words, _ in _words(texts):
        counts += np.bincount(words % np.uint64(BUCKETS), minlength=BUCKETS)
    return counts


def weights(counts: np.ndarray, documents: int) -> np.ndarray:
    """Of a word of each bucket; buckets are counted once for each of their words, so it may be in
    more "documents" than there are.
    """
    return np.log((1 + documents) / (1 + np.minimum(counts, documents)))


def embed(texts: Sequence[str], weights: np.ndarray, dimensions: int) -> np.ndarray:
    """Unit vectors [texts, dimensions]; zeros for a text without words that count."""
    vectors = np.zeros((len(texts), dimensions))
    for document, words, times in _words(texts):
        weight = (1 + np.log(times)) * weights[words % np.uint64(BUCKETS)]
        for turn in range(SPREAD):
            bits = _mixed(words + np.uint64((turn + 1) * 0x9E3779B97F4A7C15 % 2**64))
            place = (bits >> np.uint64(1)) % np.uint64(dimensions)
            sign = 1.0 - 2.0 * (bits & np.uint64(1))
            np.add.at(vectors, (document, place.astype(np.int64)), sign * weight)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


def _words(texts: Sequence[str]):
    """Numbers of documents, the hashes of their words, and how often each is there."""
    for numbers, words in batches(enumerate(map(normal_form, texts))):
        first, hashes = words.grams(1)
        document = np.array(numbers)[words.lines[first]]
        order = np.lexsort((hashes, document))
        document, hashes = document[order], _mixed(hashes[order])
        new = np.ones(len(order), bool)
        new[1:] = (document[1:] != document[:-1]) | (hashes[1:] != hashes[:-1])
        (starts,) = np.nonzero(new)
        yield document[starts], hashes[starts], np.diff([*starts, len(order)])


def _mixed(x: np.ndarray) -> np.ndarray:
    """splitmix64: the low bits of the words' own hashes follow their last letters."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
