"""The gRPC API: converts messages to values and delegates to the services."""
