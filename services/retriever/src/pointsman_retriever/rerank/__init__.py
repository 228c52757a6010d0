"""Passages ordered anew by a model that reads the query and each of them together."""
