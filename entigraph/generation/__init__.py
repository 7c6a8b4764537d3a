"""What writes texts about a library, and how good they are."""
