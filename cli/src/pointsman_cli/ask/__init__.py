"""`pointsman ask`, `route` and `feedback`: send a question, show how it would be routed, rate the answer."""
