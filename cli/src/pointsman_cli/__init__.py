"""The `pointsman` command; it starts the services as processes and speaks to them over gRPC and HTTP, and imports none."""
