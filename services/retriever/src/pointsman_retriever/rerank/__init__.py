"""Rerankers: models that read the query together with each passage and score the pair."""
