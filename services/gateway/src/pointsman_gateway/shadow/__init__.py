"""Shadow requests: answers a sample of requests a second time by another path, to measure that path."""
