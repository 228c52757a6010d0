"""API keys, tenants, their limits over all gateways, and usage; docs/keys.md describes the behaviour."""
