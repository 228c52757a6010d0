"""The operations on collections: searches, changes, ingests and maintenance."""
