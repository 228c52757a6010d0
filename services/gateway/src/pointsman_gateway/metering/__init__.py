"""Computes what each request costs, makes its receipt, however it ends, and counts it in the metrics."""
