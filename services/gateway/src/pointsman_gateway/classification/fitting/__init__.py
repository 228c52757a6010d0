"""Fits the classifier: its stages, the cascade threshold between them, and the thresholds for abstaining."""
