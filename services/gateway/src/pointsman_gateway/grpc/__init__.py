"""The gateway's gRPC server: the servicer, and the conversion of its messages."""
