"""`pointsman keys`: creates API keys, sets limits and budgets, and shows usage."""
