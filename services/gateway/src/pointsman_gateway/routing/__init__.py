"""Decides which path (a model with an adapter or prompt strategies) answers a request, and which may replace it."""
