"""The edges: HTTP and gRPC, decoded into the same Request and encoded from the same events."""
