"""The built-in prompt strategies, one per file."""
