"""`pointsman classifier`: fit it, and find out what it lacks."""
