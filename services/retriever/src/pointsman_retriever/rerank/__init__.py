"""Rerankers: clients of models that read a query together with each passage, and score how well the passage answers."""
