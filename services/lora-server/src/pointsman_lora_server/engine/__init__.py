"""Runs the inference engine: starts vLLM as a child process or watches an engine that others started, calls it over
HTTP, and adds middleware (the guard) that protects vLLM's routes.
"""
