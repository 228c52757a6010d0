"""Which path answers? Labels in, Decision out; the only place where this is decided."""
