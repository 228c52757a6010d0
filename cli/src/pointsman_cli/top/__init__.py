"""`pointsman top`: shows live traffic, latency and cost of each path."""
