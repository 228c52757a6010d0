"""Remembers the path of each conversation, and says when a change of it pays."""
