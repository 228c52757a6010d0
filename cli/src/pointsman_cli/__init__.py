"""The `pointsman` command line, which starts Pointsman's services as processes and calls them over gRPC and HTTP.

It imports no code of the gateway, the retriever or the lora-server.
"""
