"""Remembers which path (a model with its adapter and prompt) answered each conversation, and computes whether a change
to another path saves dollars.
"""
