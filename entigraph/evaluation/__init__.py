"""What a model knows of a library, and what it has forgotten."""
