"""API keys and tenants in Redis, which the gateway reads, and `pointsman keys` and the admin API change."""
