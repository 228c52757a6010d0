"""Decides which path answers a request; no other part of the gateway decides that."""
