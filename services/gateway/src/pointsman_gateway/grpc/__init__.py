"""The gateway's gRPC server: its service, and the conversion of its messages to and from the domain's types."""
