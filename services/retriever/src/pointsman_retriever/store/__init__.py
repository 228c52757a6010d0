"""The collections on disk, one SQLite file each: the source of truth."""
