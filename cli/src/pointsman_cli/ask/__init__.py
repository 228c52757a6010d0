"""`pointsman ask` and `pointsman route`: a question to the gateway, and what it decided."""
