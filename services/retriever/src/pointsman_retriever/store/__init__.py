"""The one source of truth, on disk."""
