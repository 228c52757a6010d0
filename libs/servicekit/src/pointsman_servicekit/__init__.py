"""Code that Pointsman's services share, such as errors, API keys, gRPC servers and clients, logs and metrics."""
