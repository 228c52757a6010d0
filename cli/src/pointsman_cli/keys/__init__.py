"""`pointsman keys`: who may use the gateway, how much, and what they have used."""
