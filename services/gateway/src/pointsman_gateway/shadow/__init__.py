"""Shadow requests: repeats a sample of requests on another path, whose answers nobody sees, to measure that path."""
