"""Compares the costs in providers' exports with the receipts in the gateway's request log."""
