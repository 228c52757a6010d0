"""`pointsman regret`: what the shadows have shown."""
