"""The `pointsman` command line, which starts the services as processes, and calls them over gRPC and HTTP.

It imports no service's code.
"""
