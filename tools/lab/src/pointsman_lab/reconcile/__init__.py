"""Compares what providers charge, as their exports say it, with the receipts in the request log."""
