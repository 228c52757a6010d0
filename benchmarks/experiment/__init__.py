"""Prompt or fine-tune, measured on the example's tasks: `python -m benchmarks.experiment`."""
