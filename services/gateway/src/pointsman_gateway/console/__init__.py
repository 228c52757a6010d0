"""Collects what the console shows: decisions in the request log, and states of paths, tasks, engines and adapters."""
