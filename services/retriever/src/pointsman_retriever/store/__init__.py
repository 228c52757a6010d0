"""Stores collections on disk, one SQLite file each. The indexes in memory are built from these files."""
