"""What the service does with collections: searches, changes, ingests and maintenance."""
