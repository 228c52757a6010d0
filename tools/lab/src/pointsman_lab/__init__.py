"""Offline tools for a gateway configuration: classifier training, replay of recorded decisions, and data sets."""
