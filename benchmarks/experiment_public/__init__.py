"""Compares prompting, retrieval and training on public data: `make experiment-public`."""
