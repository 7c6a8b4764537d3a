"""Bubblewrap keeps every promise of a sandbox."""

from sandbox_cases import *  # noqa: F403

KIND = "bubblewrap"
