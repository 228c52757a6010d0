"""What embeddings and reranking share: models that are called once for a request, and priced by what they read."""
