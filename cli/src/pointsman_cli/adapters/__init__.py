"""`pointsman adapters`: lists, registers and removes adapters, and moves aliases between their versions."""
