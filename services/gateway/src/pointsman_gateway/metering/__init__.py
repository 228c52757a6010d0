"""Computes the cost of each request, makes its receipt (the record of its path, tokens, costs and times), however the
request ends, and counts it in the metrics.
"""
