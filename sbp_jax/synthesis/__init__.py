"""From pairs of documents to synthetic ones."""
