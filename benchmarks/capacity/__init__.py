"""Capacity planning: measures one engine, and simulates how many engines a workload needs."""
