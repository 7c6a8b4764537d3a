"""Where an idea belongs among others: ideas in much the same words share a niche.

The words of its title and of the lines that it adds are embedded without a model (hashed words
under a random projection); the signs of the first coordinates are the niche.
"""

import numpy as np

from research_env.researcher.interface import Proposal
from sbp_jax.pairing import lexical

BITS = 4  # 16 niches: a search of some hundred ideas meets each often
_DIMENSIONS = 64
_EVEN = np.ones(lexical.BUCKETS)  # no word counts more than another: nothing is known of them yet


def niche_of(proposal: Proposal) -> str:
    added = [line[1:] for line in proposal.diff.splitlines() if line[:1] == "+"]
    text = "\n".join([proposal.title, *(line for line in added if not line.startswith("++"))])
    (vector,) = lexical.embed([text], _EVEN, _DIMENSIONS)
    return "".join("1" if value > 0 else "0" for value in vector[:BITS])
