"""Builds training data sets for adapters from stored answers and the feedback on them."""
