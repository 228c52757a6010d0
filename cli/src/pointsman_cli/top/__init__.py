"""`pointsman top`: what the paths do, live."""
