"""One extension of each kind, as docs/extending.md shows them."""
