"""API keys and tenants in Redis: the gateway reads them, the `pointsman keys` command writes them."""
