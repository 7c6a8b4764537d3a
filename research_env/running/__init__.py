"""A search while it runs: its queue, its workers, its decisions, its confirmation."""
