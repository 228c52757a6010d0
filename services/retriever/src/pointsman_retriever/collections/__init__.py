"""Collections at work: reads, writes, searches, ingests and maintenance."""
