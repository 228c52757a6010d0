"""Measures what a platform team asks first about a GPU: `make bench-gpu`."""
