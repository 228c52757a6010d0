"""Trains the classifier on the tasks' examples.

It trains each stage (static and encoder), and chooses the cascade threshold, from which on the static stage decides
alone, and the thresholds below which the classifier abstains.
"""
