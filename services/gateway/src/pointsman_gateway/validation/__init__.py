"""Is the answer what the task wants? Chunks in, a verdict out."""
