"""Pairs of related documents, from a corpus alone."""
