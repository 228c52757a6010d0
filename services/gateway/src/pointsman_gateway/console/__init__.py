"""Collects what the console shows: decisions from the request log, measured quality of paths, engines, adapters."""
