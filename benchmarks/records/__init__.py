"""Benchmarks of exported records."""
