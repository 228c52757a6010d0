"""A client of the gateway's API, over HTTP and gRPC."""
