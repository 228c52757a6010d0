"""Read-only collections in stores that the user already has."""
