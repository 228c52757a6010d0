"""The embedding models of `/v1/embeddings`: local and remote ones, and the processing of a request."""
