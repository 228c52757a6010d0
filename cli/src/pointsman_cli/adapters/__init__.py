"""`pointsman adapters`: lists and registers adapters, and moves aliases between their versions."""
