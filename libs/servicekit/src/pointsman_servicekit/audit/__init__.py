"""The audit log: who has changed keys, limits, roles, the configuration, prices and aliases, and from where."""
