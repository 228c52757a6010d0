"""`pointsman train`: trains an adapter on examples."""
