"""Remembers the path of each conversation, and computes whether a change to another path pays."""
