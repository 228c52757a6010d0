"""Runs vLLM as a child process or watches an engine that others started, calls it over HTTP, and guards its routes."""
