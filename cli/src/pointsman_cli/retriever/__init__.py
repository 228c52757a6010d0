"""`pointsman retriever`: lists, verifies, copies, migrates and tunes collections."""
