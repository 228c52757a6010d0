"""Measures the engine's answers while adapters are hot-swapped, promoted and loaded: `make bench-adapters`."""
