"""`pointsman doctor`: what is missing or wrong on this machine, and what to do."""
