"""Decides which path answers a request, and which paths may replace it."""
