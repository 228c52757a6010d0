"""Code of embeddings and reranking, whose models are called once for a request, and priced by what they read."""
