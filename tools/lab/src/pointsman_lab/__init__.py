"""Offline tools for a gateway's configuration and request log: fit the classifier, replay decisions, suggest
improvements, build data sets."""
