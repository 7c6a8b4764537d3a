"""What a search found and is doing, for a person: a live page, and the same as a file."""
