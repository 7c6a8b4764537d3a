"""Why and how knowledge grows with texts."""
