"""`pointsman distill`: from what was kept of answers to an adapter that serves, or is refused."""
