"""The embedding models behind `/v1/embeddings`: admission and limits, the local encoder, and remote endpoints."""
