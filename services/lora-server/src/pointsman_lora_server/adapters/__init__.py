"""Adapter versions: registering, checking, loading, placement_planner and promoting them."""
