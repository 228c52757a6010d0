"""The `pointsman` command line. It starts the services as processes, calls them over gRPC and HTTP, and imports none of
them.
"""
