"""Stores that several retrievers share: they hold texts, vectors and counts, and nothing is built at start."""
