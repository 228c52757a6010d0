"""Identifies tenants by their API keys, enforces their limits over all gateways, and counts their usage; see
docs/keys.md.
"""
