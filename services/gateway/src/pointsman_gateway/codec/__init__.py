"""Decoding of requests and encoding of answers, as far as the HTTP and the gRPC server share it."""
