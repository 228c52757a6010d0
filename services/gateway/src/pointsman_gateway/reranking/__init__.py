"""The rerankers of `/v1/rerank`: that of the retriever, and remote ones."""
