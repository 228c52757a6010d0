"""Files to texts."""
