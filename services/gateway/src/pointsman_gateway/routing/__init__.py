"""Decides which path answers a request. No other part of the gateway decides that."""
