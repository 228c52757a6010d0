"""`pointsman data`: data sets from what was kept of answers."""
