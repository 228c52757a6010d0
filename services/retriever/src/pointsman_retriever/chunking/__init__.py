"""Splits documents into chunks that fit the embedding model's window."""
