"""Keys and tenants as Redis holds them: what the gateway reads, and the command writes."""
