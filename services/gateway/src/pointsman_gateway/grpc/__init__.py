"""The internal gRPC interface of the gateway."""
