"""The rerankers of `/v1/rerank`, which score documents for a query: the retriever's, and remote ones."""
