"""`pointsman advise`: computes from which volume an adapter pays off, and recommends a path for each task."""
