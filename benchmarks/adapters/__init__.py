"""Measures what becomes of answers while adapters are moved."""
