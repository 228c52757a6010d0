"""Ranks the chunks of one collection for a query; independent of storage and transport."""
