"""`pointsman ask`, `route` and `feedback`: a question to the gateway, what it decided, and what you say of that."""
