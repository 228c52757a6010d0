"""Capacity planning: measures what one engine does, and simulates how many a workload needs."""
