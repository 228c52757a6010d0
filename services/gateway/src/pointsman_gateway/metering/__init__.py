"""Computes what each request costs, and writes its receipt, however it ends."""
