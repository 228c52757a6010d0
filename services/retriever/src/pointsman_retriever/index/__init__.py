"""Finding chunks: by meaning, by word, and both fused."""
