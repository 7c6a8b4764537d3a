"""Which documents of a corpus are kept from training: a matter of their ids alone."""

import hashlib

from sbp_jax.config import Experiment


def is_validation(document_id: str, experiment: Experiment) -> bool:
    """Those to choose by: a share of `config.data.held_out`, the same in every stage."""
    return _share("validation", document_id) < experiment.data.held_out


def is_held_out(document_id: str, experiment: Experiment) -> bool:
    """Those that judge, of a corpus that has no other: as large a share, drawn before."""
    return _share("held out", document_id) < experiment.data.held_out


def _share(purpose: str, document_id: str) -> float:
    digest = hashlib.blake2b(f"{purpose} {document_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
