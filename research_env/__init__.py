"""Research environments in which ideas are proposed, run and scored automatically."""
