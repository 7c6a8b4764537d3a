"""From text to batches: corpora, tokenizers, token stores, the loader, the embedded toy world."""
