"""Adapter versions: registering, checking, loading, placing and promoting them."""
