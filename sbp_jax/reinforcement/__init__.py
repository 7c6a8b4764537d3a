"""A policy learns from the rewards of its own texts."""
