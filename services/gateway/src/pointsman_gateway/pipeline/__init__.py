"""The request path: one `RequestRun` for each request, the protocols of its stages, and the sinks of its answer."""
