"""Text to vectors for whoever asks: the small line behind `/v1/embeddings`."""
