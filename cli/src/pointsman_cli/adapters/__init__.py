"""`pointsman adapters`: what adapters there are, how each stands, and where the points lead."""
