"""The `pointsman` command: starts the services as processes, speaks to them over gRPC and HTTP, and imports none."""
