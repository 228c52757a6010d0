"""The way in: gRPC."""
