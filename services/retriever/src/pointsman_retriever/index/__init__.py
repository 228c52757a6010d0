"""The indexes of a collection that searches use: of vectors, of words and of metadata."""
