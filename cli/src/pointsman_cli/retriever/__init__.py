"""`pointsman retriever`: what an operator does to its collections."""
