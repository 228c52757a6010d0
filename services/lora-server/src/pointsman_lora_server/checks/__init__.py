"""Checks an adapter before an engine loads it, because the engine accepts many adapters whose answers it then computes
wrongly.
"""
