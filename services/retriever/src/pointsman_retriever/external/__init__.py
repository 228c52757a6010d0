"""Collections that are read from a store that the user already has, and that the retriever never writes to."""
