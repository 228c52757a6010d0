"""Shared code of embeddings and reranking, which call one model per request and charge for its input tokens or
searches.
"""
