"""In-memory indexes of a collection: vectors, words and metadata."""
