"""Remembers which path answered each conversation, and computes whether a change to another path saves dollars."""
